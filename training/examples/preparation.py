"""The log before a cut, in rows of the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from training.examples.moments import Tables
from training.examples.shown import Refused
from training.log.engagements import Engagements
from training.log.popularity import PopularityTable, popularity_table
from training.network.items import ItemTerms
from training.vocabulary import FIRST_ROW, UNKNOWN


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """The log before a cut, in rows of the model."""

    fit: Engagements
    known_items: np.ndarray  # int64 [items], item codes in row order
    tables: Tables
    popularity: PopularityTable
    cut_us: int
    terms: ItemTerms | None = None  # what the catalogue says of the items; None where nothing is read of it
    refused: Refused | None = None  # what users were shown and did not choose; None where nothing is known of it

    @property
    def num_rows(self) -> int:
        return len(self.known_items) + FIRST_ROW


def _nothing(known_items: np.ndarray) -> None:
    """No catalogue."""


def prepare(
    fit: Engagements,
    cut_us: int,
    terms: Callable[[np.ndarray], ItemTerms | None] = _nothing,
    refused: Refused | None = None,
) -> Preparation:
    """Gives every item and type of the log a row; what the log does not have is unknown."""
    known_items = np.unique(fit.item)
    item_row = np.full(len(fit.item_ids), UNKNOWN, np.int32)
    item_row[known_items] = FIRST_ROW + np.arange(len(known_items), dtype=np.int32)
    type_row = FIRST_ROW + np.arange(len(fit.event_types), dtype=np.int32)
    num_rows = len(known_items) + FIRST_ROW
    return Preparation(
        fit=fit,
        known_items=known_items,
        tables=Tables(item_row=item_row, type_row=type_row),
        popularity=popularity_table(
            item_row[fit.item], fit.time_us, fit.is_returning(), num_rows=num_rows, end_us=cut_us
        ),
        cut_us=cut_us,
        terms=terms(known_items),
        refused=refused.before(cut_us) if refused is not None and len(refused.before(cut_us)) else None,
    )
