"""The file in which an evaluation leaves what a policy would choose from, and what users then did: its columns."""

from __future__ import annotations

from typing import Final

COLUMNS: Final = {
    "user_id": "string",
    "state": "string",  # lifecycle state at the moment that is asked about
    "tail_percentile": "float64",  # as in `user_activity`
    "targets": "int64",  # new items of the user in the window, known to the model, candidates or not
    "item_id": "string",
    "score": "float64",  # the model's calibrated probability
    "novelty_bits": "float64",  # as in `item_stats`
    "is_target": "bool",
}
