"""The whole suite on this machine: which processes it has, and who keeps them alive."""
