"""The peers' programs; each runs in the environment of its own peer."""
