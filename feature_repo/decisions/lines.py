"""One decision as a line of an open segment: JSON, with the candidates in columns packed into one block of numbers.

Version 1 had a list of objects for the items, and codes in lists; it is still read.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, groupby, repeat
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from feature_repo.errors import LongtailError

LINE_VERSION: Final = 2
READABLE: Final = (1, LINE_VERSION)
CATEGORY: Final = "category"  # the column of codes, int32; the others are float32

# What the policy was given of each candidate, float32; a column that a line leaves out has its default throughout.
CANDIDATE_NUMBERS: Final[Mapping[str, float]] = {
    "score": 0.0,  # the model's probability; 0 when it did not answer
    "relevance": np.nan,  # what stood for it then, from item statistics; missing when the model answered
    "novelty": 1.0,
    "exposures": 0.0,  # times shown without engagement, each counting less the longer ago
    "rate": np.nan,  # smoothed share of those shown it who engaged; missing when nobody was
    "trials": 0.0,  # how many were
}

# A decision that says nothing: what a line of version 1 has to have.
EMPTY_LINE: Final[Mapping[str, Any]] = {
    "v": 1,
    **dict.fromkeys(("decision_id", "user_id", "reason", "campaign_id", "surface", "channel", "policy_version"), ""),
    **dict.fromkeys(("p_alive", "model_name", "model_version")),
    **dict.fromkeys(("at_unix_s", "days_in_state", "history_length", "limit"), 0),
    **dict.fromkeys(("contact_propensity", "tail_percentile"), 1.0),
    **{"decision": "show", "state": "dormant", "objective": "auto", "explores": True, "dropped": {}, "numbers": ""},
    **{name: [] for name in ("items", "experiments", "features", "degraded", "columns", "source_codes")},
    **{name: [] for name in ("candidate_item_ids", "candidate_sources", "candidate_categories", "category_codes")},
}

_as_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class DecisionLogReadError(LongtailError):
    """A file of the decision log is none, or of a version that this one does not know."""


def to_line(
    facts: Mapping[str, Any],
    *,
    items: Mapping[str, Sequence[Any]],
    item_ids: Sequence[str],
    sources: Sequence[str],
    categories: npt.NDArray[np.int32],
    category_names: Mapping[int, str],
    numbers: Mapping[str, npt.NDArray[Any]],
) -> bytes:
    """`facts` are the columns of `records.SCHEMA` that are of the decision as a whole; `items` are columns too."""
    packed = {name: column.astype("<f4", copy=False) for name, column in numbers.items()}
    packed[CATEGORY] = categories.astype("<i4", copy=False)
    line = {
        "v": LINE_VERSION,
        **facts,
        "items": items,
        "candidate_item_ids": item_ids,
        "candidate_sources": _runs(sources),
        "category_names": {code: category_names[code] for code in set(categories.tolist())},
        "columns": list(packed),
        "numbers": base64.b64encode(b"".join([column.tobytes() for column in packed.values()])).decode(),
    }
    return _as_json(line).encode() + b"\n"


def parse(lines: Sequence[bytes], *, where: Path) -> Iterator[tuple[dict[str, Any], bytes]]:
    """The lines as JSON, each with its bytes; the items are an object each, as in version 1.

    A last line that a crash cut short is left out.
    """
    for place, data in enumerate(lines, start=1):
        try:
            line = json.loads(data)
            version = line["v"]
        except (ValueError, KeyError, TypeError):
            if place == len(lines):
                return
            raise DecisionLogReadError(f"{where}:{place} is no decision; move the file away to read the rest") from None
        if version not in READABLE:
            raise DecisionLogReadError(
                f"{where}:{place} has schema version {version}, this longtail reads {READABLE[0]} to {READABLE[-1]}; "
                "read it with the version that wrote it"
            )
        if version != 1:
            line["items"] = _rows(line["items"])
        yield line, data


def _rows(items: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """
    >>> _rows({"item_id": ["a", "b"]})
    [{'rank': 1, 'item_id': 'a'}, {'rank': 2, 'item_id': 'b'}]
    """
    rows = enumerate(zip(*items.values(), strict=True), start=1)
    return [{"rank": rank, **dict(zip(items, values, strict=True))} for rank, values in rows]


def sources_of(line: Mapping[str, Any]) -> list[str]:
    """One per candidate."""
    if line["v"] == 1:
        return [line["candidate_sources"][code] for code in line["source_codes"]]
    return list(chain.from_iterable(repeat(source, count) for source, count in line["candidate_sources"]))


def categories_of(line: Mapping[str, Any]) -> list[str]:
    """One per candidate."""
    if line["v"] == 1:
        return [line["candidate_categories"][code] for code in line["category_codes"]]
    names = {int(code): name for code, name in line["category_names"].items()}
    return [names[code] for code in _blocks(line)[CATEGORY].view("<i4").tolist()]


def numbers_of(line: Mapping[str, Any]) -> dict[str, npt.NDArray[np.float32]]:
    count = len(line["candidate_item_ids"])
    given = _blocks(line)
    return {name: given.get(name, np.full(count, default, "<f4")) for name, default in CANDIDATE_NUMBERS.items()}


def _blocks(line: Mapping[str, Any]) -> dict[str, npt.NDArray[np.float32]]:
    data = np.frombuffer(base64.b64decode(line["numbers"]), "<f4")
    blocks = data.reshape(len(line["columns"]), len(line["candidate_item_ids"]))
    return dict(zip(line["columns"], blocks, strict=True))


def _runs(names: Sequence[str]) -> list[tuple[str, int]]:
    """
    >>> _runs(["a", "a", "b"])
    [('a', 2), ('b', 1)]
    """
    if len(set(names)) == 1:
        return [(names[0], len(names))]
    return [(name, len(list(run))) for name, run in groupby(names)]
