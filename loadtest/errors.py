"""The one kind of failure of a load test that is expected: bad options, or nothing to measure."""


class LoadTestError(Exception):
    """Its message says what was received, what is allowed, and how to mend it."""
