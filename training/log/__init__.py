"""The event log as arrays."""
