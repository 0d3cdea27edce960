"""Data sources, feature definitions, training sets and online features."""
