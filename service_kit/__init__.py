"""What a process needs to be a Modelyard service and no service owns."""
