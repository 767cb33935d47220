"""Events → the facts that views are made of. Each is a sum over events, so facts of two sets of events can be merged.

Every time, count, minimum, maximum and sum is a whole number: no order of adding changes a result, on any engine.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

import ibis
from ibis import _

from feature_repo.contract import Dtype, Feature, View
from feature_repo.events import EXPOSURE, NOT_ACTIVITY
from feature_repo.lifecycle import DAY_S
from feature_repo.settings import FeatureSettings, LifecycleSettings
from feature_repo.tables.expressions import left_join, microseconds, weight

WEIGHT_SCALE: Final = 1_000_000  # weights are summed in millionths
DAY: Final = 86_400
LATE_DAYS: Final = 30  # engagements within them are of late

ITEM_FACTS: Final = View(
    name=".build/item_facts",
    entity="item_id",
    owner="data",
    fresh_for=None,
    description="What an incremental build adds to; no Feast view.",
    features=tuple(
        Feature(name=name, dtype=Dtype.INT64, unit=unit, default=None, description=description)
        for name, unit, description in (
            ("exposures", "events", "As in `item_stats`."),
            ("engagements", "events", "As in `item_stats`."),
            ("engaged_users", "users", "As in `item_stats`."),
            ("saw", "users", "Who were exposed to the item."),
            ("followed", "users", "Who engaged with it then."),
            ("first_us", "µs since 1970 UTC", "The first event."),
            ("engagements_30d", "events", "As in `item_stats`."),
            ("users", "users", "Who engaged with any item; the same in every row."),
        )
    ),
)


def prepare(events: ibis.Table, settings: FeatureSettings) -> ibis.Table:
    """Rows of the event log with event_us and unix_s since 1970 and the type's weight in millionths.

    An engine may have prepared them while it read the log, which is faster.
    """
    if "event_us" in events.columns:
        return events
    events = events.mutate(event_us=microseconds(events.event_time), surface=events.surface.fill_null(""))
    scaled = (weight(events.event_type, settings) * WEIGHT_SCALE).round().cast("int64")
    columns = ("user_id", "item_id", "event_type", "surface", "event_us")
    return events.select(*columns, unix_s=(_.event_us // 1_000_000).cast("int64"), weight=scaled)


def engagements(events: ibis.Table) -> ibis.Table:
    """(user_id, item_id, event_type, unix_s) → weight, event_us: the same in one second is one engagement."""
    rows = events.filter(events.weight > 0).group_by(["user_id", "item_id", "event_type", "unix_s"])
    return rows.agg(event_us=_.event_us.min(), weight=_.weight.min())


def days(events: ibis.Table) -> ibis.Table:
    """(user_id, day) → first_unix_s, last_unix_s, events: what the user did on each UTC day."""
    return (
        acts_of(events)
        .group_by(["user_id", "day"])
        .agg(first_unix_s=_.unix_s.min(), last_unix_s=_.unix_s.max(), events=_.count())
    )


def with_returns(rows: ibis.Table, settings: LifecycleSettings) -> ibis.Table:
    """Days with `is_return`: whether the day's first act ends a dormant absence (which lasts a day at least)."""
    before = rows.last_unix_s.lag().over(group_by="user_id", order_by="day")
    gap_s = rows.first_unix_s - before
    return rows.mutate(is_return=(gap_s >= settings.dormant_after_days * DAY_S).fill_null(False))


def acts_of(events: ibis.Table) -> ibis.Table:
    """What users did, with its second and UTC day. Exposures and contacts are what we did."""
    acts = events.filter(events.event_type.notin(NOT_ACTIVITY))
    return acts.select("user_id", "event_us", "unix_s", day=(acts.unix_s // DAY).cast("int64"))


def pairs(events: ibis.Table) -> ibis.Table:
    """(item_id, user_id) → how often and when the user saw the item and engaged with it."""
    of_items = events.filter(events.item_id != "")
    of_items = of_items.mutate(is_exposure=of_items.event_type == EXPOSURE)
    return of_items.group_by(["item_id", "user_id"]).agg(
        exposures=_.count(where=_.is_exposure),
        engagements=_.count(where=_.weight > 0),
        seen_us=_.event_us.min(where=_.is_exposure),
        engaged_us=_.event_us.max(where=_.weight > 0),
        first_us=_.event_us.min(),
    )


def items(pairs: ibis.Table, events: ibis.Table, as_of: datetime) -> ibis.Table:
    """item_id → sums over its `pairs`, and the number of users who engaged with any item, the same in every row.

    `events` are those that `pairs` is of, all before `as_of`. All but `first_us` can be taken off again.
    """
    known = pairs.group_by("item_id").agg(
        exposures=_.exposures.sum(),
        engagements=_.engagements.sum(),
        engaged_users=_.engaged_us.count(),
        saw=_.seen_us.count(),
        followed=_.count(where=_.engaged_us >= _.seen_us),
        first_us=_.first_us.min(),
    )
    late = events.filter((events.weight > 0) & (events.unix_s >= as_of.timestamp() - LATE_DAYS * DAY))
    late = late.filter(late.item_id != "").group_by("item_id").agg(engagements_30d=_.count())
    users = pairs.filter(pairs.engaged_us.notnull()).agg(users=_.user_id.nunique())
    rows = left_join(known, late, ["item_id"]).cross_join(users)
    counts = [name for name in rows.columns if name != "item_id"]
    return rows.mutate(**{name: rows[name].fill_null(0).cast("int64") for name in counts})
