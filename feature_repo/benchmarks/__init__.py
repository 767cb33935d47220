"""Measurements with the baseline beside them in the same run: `python -m feature_repo.benchmarks.<name>`."""
