from feature_repo.errors import LongtailError


class OutcomeError(LongtailError):
    """What was given cannot be judged; the text says what is wrong and how to mend it."""
