"""Training-serving skew of items: `item_stats` beside what the event log gives, neighbours beside their table."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC
from typing import TYPE_CHECKING, Final

import pyarrow.parquet as pq

from feature_repo.checks.recount import recount_build, recount_items, sampled
from feature_repo.checks.skew import Served, SkewReport, not_compared, of_build, read_rows
from feature_repo.checks.skew_tally import FeatureSkew, Pair, compare
from feature_repo.contract import ITEM_NEIGHBORS, ITEM_STATS
from feature_repo.layout import StateDir
from feature_repo.online.materialize import loaded_until
from feature_repo.online.rows import online_of, whole_second
from feature_repo.online.streamed import STREAMED
from feature_repo.settings import FeatureSettings
from feature_repo.tables.build import EVENT_TIMESTAMP, offline_file
from feature_repo.tabular import Report, silent

if TYPE_CHECKING:
    from feature_repo.feast_api import FeatureStore

BUILT: Final = (ITEM_STATS,)  # has columns that no event changes


def measure_items(
    state: StateDir,
    settings: FeatureSettings,
    store: FeatureStore,
    *,
    items: Sequence[str] = (),
    sample: int = 1000,
    report: Report = silent,
) -> SkewReport:
    """As `skew.measure`, of items."""
    items = list(dict.fromkeys(items)) or sampled(state, "item_id", sample)
    if not items:
        return SkewReport(asked=0, moved=0, waiting=0, features=())
    loaded = loaded_until(store, ITEM_STATS)
    online = online_of(store)
    try:
        served = read_rows(online, (ITEM_STATS, ITEM_NEIGHBORS), items)
        rows = {item: served[item].get(ITEM_STATS.name) for item in items}
        moments = {item: loaded if row is None else row.event_time for item, row in rows.items()}
        past = recount_items(state, settings, sorted({*moments.items()}), report)
        built = recount_build(state, settings, items, wanted=BUILT, loaded={loaded}, report=report)
        again = read_rows(online, (ITEM_STATS, ITEM_NEIGHBORS), items)
    finally:
        online.close()
    still = [item for item in items if again[item] == served[item]]
    waiting = {item for item in still if not served[item] and past.first_seen.get(item, loaded) >= loaded}
    compared = [item for item in still if item not in waiting]
    pairs = [
        Pair(
            entity_id=item,
            at=moments[item],
            served=None if (row := rows[item]) is None else row.values,
            offline=past.row(ITEM_STATS, item, moments[item]),
        )
        for item in compared
    ]
    features = compare(ITEM_STATS.name, STREAMED[ITEM_STATS.name], pairs)
    features += of_build(BUILT, compared, served, built)
    neighbors, note = _of_table(state, store, compared, served)
    return SkewReport(
        asked=len(items),
        moved=len(items) - len(still),
        waiting=len(waiting),
        features=(*features, *neighbors),
        notes=(*not_compared(BUILT, built), *note),
    )


def _of_table(
    state: StateDir, store: FeatureStore, items: Sequence[str], served: Served
) -> tuple[list[FeatureSkew], list[str]]:
    """Neighbours of all items at once cost more than all other views: the table stands for the log."""
    file, loaded = offline_file(state, ITEM_NEIGHBORS), loaded_until(store, ITEM_NEIGHBORS)
    table = pq.read_table(file, filters=[("item_id", "in", list(items))]).to_pylist() if file.exists() else []
    if any(whole_second(row[EVENT_TIMESTAMP].astimezone(UTC)) != loaded for row in table) or not table:
        return [], [f"not compared, for its table is not the one loaded last: {ITEM_NEIGHBORS.name}"]
    offline = {row["item_id"]: row for row in table}
    pairs = [
        Pair(
            entity_id=item,
            at=loaded,
            served=None if (row := served[item].get(ITEM_NEIGHBORS.name)) is None else row.values,
            offline=offline.get(item),
        )
        for item in items
    ]
    return compare(ITEM_NEIGHBORS.name, ITEM_NEIGHBORS.feature_names(), pairs), []
