"""Online inference of the suite beside its peers, measured in one run."""
