"""The online store as pure functions: its keys and bytes, what a read needs, what a write holds."""
