"""Public data sets as Parquet files, into a state directory by way of the product's own import.

They are not part of longtail: a folder per data set holds what its publisher gives, and what is not there is skipped.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from feature_repo.layout import StateDir
from feature_repo.log.catalogue import ItemMapping, catalogue_file, import_items
from feature_repo.log.importing import EventMapping, import_events
from feature_repo.settings import FeatureSettings
from feature_repo.tabular import open_files, scratch_database
from training.examples.split import SplitName
from training.fitting import runs
from training.fitting.runs import Run
from training.settings import TrainingSettings

DAY_S = 86_400
EVENT_COLUMNS = {name: name for name in ("user", "item", "time", "type")}
Frames = tuple[pd.DataFrame, pd.DataFrame]  # events: user, item, time in s, type; items: item and what is known of it


@dataclass(frozen=True, kw_only=True)
class BenchmarkData:
    """One data set and the split it is measured by."""

    name: str
    folder: str
    read: Callable[[Path], Frames]
    split: SplitName
    settings: Mapping[str, object] = field(default_factory=dict)  # of [training]; no parameter of the model


def started(data: BenchmarkData, folder: Path, state: StateDir, settings: TrainingSettings) -> Run:
    """A run on a data set, which is imported first where it was not before."""
    if not state.events.exists():
        bring(data, folder, state)
    chosen = settings.model_copy(update=data.settings)
    return runs.start(state.events, FeatureSettings(), chosen, catalogue=catalogue_file(state))


def bring(data: BenchmarkData, folder: Path, state: StateDir) -> None:
    """Imports events and items."""
    events, items = data.read(folder / data.folder)
    now = datetime.now(UTC)
    with tempfile.TemporaryDirectory(prefix="longtail-benchmark-") as scratch:
        files = Path(scratch) / "events.parquet", Path(scratch) / "items.parquet"
        events.to_parquet(files[0], index=False)
        items.to_parquet(files[1], index=False)
        mapping = EventMapping(columns=EVENT_COLUMNS, time_format="epoch_s")
        with scratch_database(state.events) as con:
            import_events(state, con, open_files(con, str(files[0])), mapping, source=data.folder, now=now)
        known = {"item": "item"} | {name: name for name in ("title", "category", "price") if name in items}
        with scratch_database(state.events) as con:
            import_items(
                state, con, open_files(con, str(files[1])), ItemMapping(columns=known), source=data.folder, now=now
            )


def _online_retail(folder: Path) -> Frames:
    """Returned goods are returns, and do not count as engagements."""
    rows = pd.read_parquet(folder / "events.parquet").dropna(subset=["CustomerID"])
    events = pd.DataFrame(
        {
            "user": rows["CustomerID"].astype(str),
            "item": rows["StockCode"].astype(str),
            "time": rows["InvoiceDate"].astype("datetime64[s]").astype("int64"),
            "type": (rows["Quantity"] > 0).map({True: "purchase", False: "return"}),
        }
    )
    first = rows.drop_duplicates("StockCode")
    return events, pd.DataFrame(
        {"item": first["StockCode"].astype(str), "title": first["Description"], "price": first["UnitPrice"]}
    )


def _amazon_grocery(folder: Path) -> Frames:
    """Of the items the category alone: the lists of complements were made from what was bought later, too."""
    rows = pd.read_parquet(folder / "events.parquet")
    meta = pd.read_parquet(folder / "item_meta.parquet")
    events = pd.DataFrame({"user": rows["user_id"].astype(str), "item": rows["item_id"].astype(str)})
    items = pd.DataFrame({"item": meta["item_id"].astype(str), "category": meta["i_category"].astype(str)})
    return events.assign(time=rows["time"], type="purchase"), items


def _s3rec_beauty(folder: Path) -> Frames:
    """Order without times: each event is put a day after the one before."""
    rows = pd.read_parquet(folder / "sequences.parquet")
    attributes = json.loads((folder / "item2attributes.json").read_text())
    events = pd.DataFrame({"user": rows["user"].astype(str), "item": rows["item"].astype(str)})
    items = pd.DataFrame(
        {"item": list(attributes), "category": ["|".join(map(str, row)) for row in attributes.values()]}
    )
    return events.assign(time=1_400_000_000 + rows["pos"] * DAY_S, type="purchase"), items


def _ml_100k(folder: Path) -> Frames:
    rows, films = pd.read_parquet(folder / "inter.parquet"), pd.read_parquet(folder / "item.parquet")
    events = pd.DataFrame({"user": rows["user_id"].astype(str), "item": rows["item_id"].astype(str)})
    genres = films["class"].astype(str).str.replace(" ", "|")
    items = pd.DataFrame({"item": films["item_id"].astype(str), "title": films["movie_title"].astype(str)})
    return events.assign(time=rows["timestamp"].astype("int64"), type="rating"), items.assign(category=genres)


BENCHMARKS = (
    BenchmarkData(
        name="ml-100k leave-one-out",
        folder="ml100k",
        read=_ml_100k,
        split="leave-one-out",
        settings={"dormant_after_days": 7.0},
    ),
    BenchmarkData(
        name="ml-100k temporal", folder="ml100k", read=_ml_100k, split="temporal", settings={"dormant_after_days": 7.0}
    ),
    BenchmarkData(
        name="online_retail temporal",
        folder="online_retail",
        read=_online_retail,
        split="temporal",
        settings={"dormant_after_days": 90.0},
    ),
    BenchmarkData(
        name="amazon_grocery temporal",
        folder="amazon_grocery_rechorus",
        read=_amazon_grocery,
        split="temporal",
        settings={"dormant_after_days": 180.0},
    ),
    BenchmarkData(name="s3rec_beauty leave-one-out", folder="s3rec_beauty", read=_s3rec_beauty, split="leave-one-out"),
)
