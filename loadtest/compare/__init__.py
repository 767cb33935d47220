"""The gateway beside what one would write in an afternoon, and beside the floor: `python -m loadtest.compare`."""
