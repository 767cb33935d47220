"""The one kind of failure that is expected: the commands print it and exit 1."""


class LongtailError(Exception):
    """Its message says what was received, what is allowed, and how to mend it."""
