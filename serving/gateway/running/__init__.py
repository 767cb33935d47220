"""The process, its workers and what goes on beside the requests."""
