"""Recorded events → the rows online, by the same rules as the tables."""
