"""A start from the last training's weights: items, event types and terms find their rows again by name.

The search goes on from the last search and the refit from the last refit. Windows only move forward with the log, so no
weight has seen the validation part or the test of now; where one would have, the run begins from scratch and says so.
Users' own weights begin at 0 as always: nothing that names a user is kept for this.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from training.model import Recommender
from training.vocabulary import FIRST_ROW

FILE: Final = "warm_start.npz"
SIZES: Final = frozenset({"num_users", "num_items", "num_event_types", "num_terms"})  # may change with the log


@dataclass(frozen=True, kw_only=True)
class Names:
    """Whose the rows of a recommender's tables are, and where its log was cut."""

    item_ids: np.ndarray  # str [items]; item k is row FIRST_ROW + k
    event_types: np.ndarray  # str [types]; type k is row FIRST_ROW + k
    terms: np.ndarray  # str [terms]; term k is row 1 + k
    cut_us: int


def keep(directory: Path, recommender: Recommender, names: Names) -> None:
    """Writes what the next training may start from; appears whole or not at all."""
    draft = directory / f".{FILE}"
    arrays: dict[str, Any] = asdict(names) | {"architecture": _architecture(recommender)}
    arrays |= {f"weights_{place}": values for place, (_, values) in enumerate(_weights(recommender))}
    with draft.open("wb") as file:
        np.savez(file, **arrays)
    draft.replace(directory / FILE)


def is_kept(directory: Path) -> bool:
    """Whether a training left something to start from."""
    return (directory / FILE).exists()


def start_from(directory: Path, recommender: Recommender, names: Names) -> str:
    """Gives the recommender the weights kept there, or leaves it as it is. Says which."""
    try:
        with np.load(directory / FILE) as archive:
            kept = {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        return "from scratch: no finished training is kept"
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        return f"from scratch: {directory / FILE} cannot be read ({error})"
    if str(kept["architecture"]) != _architecture(recommender):
        return "from scratch: the settings of the model changed since the last training"
    if int(kept["cut_us"]) > names.cut_us:
        return "from scratch: the last training learnt from later events than this one may"
    met = int(np.isin(names.item_ids, kept["item_ids"]).sum())
    tables = _named_tables(recommender)
    for place, (variable, values) in enumerate(_weights(recommender)):
        old = kept[f"weights_{place}"]
        if id(variable) in tables:
            first, what = tables[id(variable)]
            variable.assign(_moved(old, values, first, kept[what], getattr(names, what)))
        else:
            variable.assign(old)
    return f"from the last training's weights: {met} of {len(names.item_ids)} items are known"


def _moved(old: np.ndarray, new: np.ndarray, first: int, old_names: np.ndarray, new_names: np.ndarray) -> np.ndarray:
    """`new` with the rows of `old` for those who are in both; rows before `first` are no names."""
    moved = new.copy()
    moved[:first] = old[:first]
    _, in_old, in_new = np.intersect1d(old_names.astype(str), new_names.astype(str), return_indices=True)
    moved[first + in_new] = old[first + in_old]
    return moved


def _named_tables(recommender: Recommender) -> dict[int, tuple[int, str]]:
    """The variables whose rows have names: their first such row, and whose they are."""
    tables = {
        id(recommender.items.embeddings): (FIRST_ROW, "item_ids"),
        id(recommender.item_bias.embeddings): (FIRST_ROW, "item_ids"),
        id(recommender.encoder.event_type.embeddings): (FIRST_ROW, "event_types"),
    }
    if recommender.items.has_terms:
        tables[id(recommender.items.terms)] = (1, "terms")
    return tables


def _weights(recommender: Recommender) -> Iterator[tuple[Any, np.ndarray]]:
    """What is learnt and belongs to no user, in an order that the architecture decides."""
    for variable in recommender.trainable_variables:
        if variable is not recommender.user_weights.embeddings:
            yield variable, np.asarray(variable)


def _architecture(recommender: Recommender) -> str:
    shape = {name: value for name, value in asdict(recommender.model_shape).items() if name not in SIZES}
    return json.dumps(shape | {"has_terms": recommender.items.has_terms}, sort_keys=True)
