"""What goes wrong in the console."""

from __future__ import annotations

from feature_repo.errors import LongtailError


class ConsoleError(LongtailError):
    """The console cannot start as it is told to."""
