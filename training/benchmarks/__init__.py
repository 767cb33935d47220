"""Measured beside its peers, or beside what it was before: `python -m training.benchmarks.<name>`."""
