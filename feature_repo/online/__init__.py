"""Feature tables → the online store, in the bytes that a plain Feast SDK reads."""
