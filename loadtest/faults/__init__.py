"""Faults in what the gateway depends on, under load: `python -m loadtest.faults`."""
