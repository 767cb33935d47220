"""The failures that are expected: the commands print them and exit 1."""


class LongtailError(Exception):
    """Its message says what was received, what is allowed, and how to mend it."""


class EventLogError(LongtailError):
    """The event log cannot be read or written."""
