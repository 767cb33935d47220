"""Rows of the embedding tables: 0 pads, 1 is any id not seen in training, ids start at 2."""

from __future__ import annotations

from typing import Final

PADDING: Final = 0
UNKNOWN: Final = 1
FIRST_ROW: Final = 2
