"""Made-up feature tables of the contract's columns, with the lengths that real ones have."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.contract import CONTACT_LENGTH, GAPS, HISTORY_LENGTH, PLACES, Dtype, Feature, View
from feature_repo.online.packed_lists import gaps
from feature_repo.online.value_bytes import ARROW_TYPES

AS_OF: Final = datetime(2026, 11, 1, tzinfo=UTC)
WEIGHTS: Final = 65  # the model's default embedding size, and the bias
FAVOURITES: Final = 5
CHANNELS: Final = 2
EXPOSED: Final = 5
_TIMES: Final = (1_700_000_000, 1_790_000_000)

_LENGTHS: Final = {
    "history": HISTORY_LENGTH,
    "count": 3,
    "counts": 3,
    "affinity": FAVOURITES,
    "delta": WEIGHTS,
    "contact": CONTACT_LENGTH // 10,
    "exposed": EXPOSED,
}


def table(view: View, rows: int, *, full_history: bool = False, seed: int = 1) -> pa.Table:
    """`rows` users or items. Histories have 1 to 50 entries, or 50 each when `full_history`."""
    random = np.random.default_rng(seed)
    lengths = np.full(rows, HISTORY_LENGTH) if full_history else random.integers(1, HISTORY_LENGTH + 1, rows)
    columns: dict[str, Any] = {
        view.entity: pa.array([f"user-{number:07d}" for number in range(rows)]),
        "event_timestamp": pa.array([AS_OF] * rows, pa.timestamp("us", "UTC")),
    }
    for feature in view.features:
        prefix = feature.name.split("_")[0]
        counts = lengths if prefix == "history" else np.full(rows, _LENGTHS.get(prefix, CHANNELS))
        columns[feature.name] = _column(feature, counts.astype(np.int64), random)
    return pa.table(columns)


def _column(feature: Feature, counts: npt.NDArray[np.int64], random: np.random.Generator) -> Any:
    is_list = feature.dtype in (Dtype.STRINGS, Dtype.INT64S, Dtype.FLOAT32S)
    size = int(counts.sum()) if is_list else len(counts)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    if feature.dtype in (Dtype.STRING, Dtype.STRINGS):
        cells = pa.array(_texts(feature, size, random))
    elif feature.unit == GAPS:
        cells = pa.array(_gaps(offsets, random))
    elif feature.dtype in (Dtype.INT64, Dtype.INT64S):
        low, high = _TIMES if "unix_s" in feature.name else (0, 2 if feature.name in PLACES else 60)
        cells = pa.array(random.integers(low, high, size))
    elif feature.dtype is Dtype.BOOL:
        return pa.array(np.zeros(size, bool))
    else:
        cells = pa.array(random.random(size, np.float32))
    if not is_list:
        return cells.cast(ARROW_TYPES[feature.dtype])
    return pa.ListArray.from_arrays(offsets, cells).cast(ARROW_TYPES[feature.dtype])


def _gaps(offsets: npt.NDArray[np.int32], random: np.random.Generator) -> npt.NDArray[np.int64]:
    """Of times spread over years: what costs most."""
    lists = [np.sort(random.integers(*_TIMES, size))[::-1].tolist() for size in np.diff(offsets)]
    return np.array([gap for times in lists for gap in gaps(times)], np.int64)


def _texts(feature: Feature, size: int, random: np.random.Generator) -> list[str]:
    if "item_ids" in feature.name:
        return [f"i{number}" for number in random.integers(0, 1_000_000, size)]
    words = {"event_types": ["view", "click", "purchase"], "channels": ["push", "email"]}
    some = next((found for name, found in words.items() if name in feature.name), ["dormant", "casual"])
    return [some[number] for number in random.integers(0, len(some), size)]
