"""The views as Ibis expressions over the event log: one definition for the build and for training.

Counts are `count(where=...)`, not sums: DuckDB sums integers into a type that Parquet keeps as floating point.

Point-in-time: a row for (user_id, as_of) uses only events strictly before `as_of`. An event at the very moment
that is to be predicted is not among its own features.

Each view has two ways in: `view(events, spine, ...)` for any moments of any users, and `view_rows(...)` over facts
that are of the past already, which is what a build of all users at one moment needs. They share the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import ibis
from ibis import _

from feature_repo.contract import AFFINITY_LENGTH, HISTORY_LENGTH
from feature_repo.events import EXPOSURE
from feature_repo.lifecycle import DAY_S, Lifecycle
from feature_repo.settings import FeatureSettings, LifecycleSettings
from feature_repo.tables import facts
from feature_repo.tables.expressions import (
    KEYS,
    complete,
    gaps,
    left_join,
    lists,
    microseconds,
    moment,
    places,
    seconds,
    share_of_others,
)

RATE_PRIOR_USERS: Final = 20.0  # the mean rate weighs as much as so many users who saw the item
COUNT_WINDOWS_DAYS: Final = (1, 7, 30)  # of behaviour and contacts
VISIT_WINDOWS_DAYS: Final = (7, 28, 90)
WINDOWS_DAYS: Final = tuple(sorted({*COUNT_WINDOWS_DAYS, *VISIT_WINDOWS_DAYS, facts.LATE_DAYS}))

Keep = Callable[[ibis.Table], ibis.Table]  # an engine's way to compute a table once that is used twice


def keep_nothing(table: ibis.Table) -> ibis.Table:
    """Leaves it to the engine."""
    return table


@dataclass(frozen=True, kw_only=True)
class Past:
    """Rows of facts before their moment: a column `as_of` beside the user, or one moment for all."""

    rows: ibis.Table
    as_of: datetime | None = None  # None: the column

    @property
    def keys(self) -> list[str]:
        return list(KEYS) if self.as_of is None else ["user_id"]

    def age_s(self, unix_s: ibis.Value) -> ibis.Value:
        """From then to the moment."""
        return -(unix_s - (seconds(_.as_of) if self.as_of is None else self.as_of.timestamp()))


def spine_of_all(events: ibis.Table, as_of: datetime) -> ibis.Table:
    """Every user with an event before `as_of`, at `as_of`: what the build and the online store need."""
    users = events.filter(events.event_time < moment(as_of)).select("user_id").distinct()
    return users.mutate(as_of=moment(as_of))


def user_history(events: ibis.Table, spine: ibis.Table, settings: FeatureSettings) -> ibis.Table:
    """(user_id, as_of) → history_item_ids, history_event_types, history_unix_s: the last engagements, newest first.

    The same user, item, type and second is one engagement. Within a second the order is that of item_id, then type,
    so that the order of arrival does not matter (`user_state`).
    """
    past = _past_engagements(events, spine, settings)
    return complete(spine, [_history(Past(rows=recent(past)), KEYS)])


def user_behavior(events: ibis.Table, items: ibis.Table, spine: ibis.Table, settings: FeatureSettings) -> ibis.Table:
    """(user_id, as_of) → the features of `contract.USER_BEHAVIOR`."""
    past = _past_engagements(events, spine, settings)
    return user_behavior_rows(Past(rows=recent(past)), category_weights(past, items), spine)


def user_behavior_rows(last: Past, weights: ibis.Table, spine: ibis.Table) -> ibis.Table:
    """The same from each user's `recent` engagements and `category_weights`."""
    rows = beside(_history(last, last.keys), _counts(last), last.keys)
    rows = rows.mutate(
        history_type_places=places(rows.history_event_types, rows.count_event_types),
        history_gaps_s=gaps(rows.history_unix_s),
    ).drop("history_event_types", "history_unix_s")
    return complete(spine, [rows, _affinities(weights, last.keys)], last.keys)


def recent(past: Past) -> ibis.Table:
    """The last HISTORY_LENGTH engagements of each user and moment; `place` 0 is the newest."""
    place = ibis.row_number().over(
        group_by=past.keys, order_by=[ibis.desc("unix_s"), ibis.asc("item_id"), ibis.asc("event_type")]
    )
    rows = past.rows.mutate(place=place).filter(_.place < HISTORY_LENGTH)
    return rows.select(*past.keys, "item_id", "event_type", "unix_s", "place")


def category_weights(past: Past, items: ibis.Table) -> ibis.Table:
    """The user's engagements with each category, weighed."""
    categories = items.select("item_id", category=items.categories.unnest())
    return past.rows.join(categories, "item_id").group_by([*past.keys, "category"]).agg(weight=_.weight.sum())


def user_activity(events: ibis.Table, spine: ibis.Table, settings: FeatureSettings) -> ibis.Table:
    """(user_id, as_of) → the features of `contract.USER_ACTIVITY` but the two of BG/NBD, which `bgnbd` adds.

    Exposures and contacts are not activity: they are what we did, not the user. `tail_percentile` compares with the
    spine's users at the same `as_of`, so it means something on the spine of all users only.
    """
    events = facts.prepare(events, settings)
    dated = spine.mutate(as_of_us=microseconds(spine.as_of))
    dated = dated.mutate(as_of_day=(dated.as_of_us // 1_000_000 // facts.DAY).cast("int64"))
    whole = facts.with_returns(facts.days(events), settings.lifecycle)
    whole = dated.join(whole, [dated.user_id == whole.user_id, whole.day < dated.as_of_day])
    known = summarize(Past(rows=whole))
    acts = facts.acts_of(events)
    begun = dated.join(
        acts, [dated.user_id == acts.user_id, acts.day == dated.as_of_day, acts.event_us < dated.as_of_us]
    )
    today = begun.group_by(KEYS).agg(
        today_first_unix_s=_.unix_s.min(), today_last_unix_s=_.unix_s.max(), today_events=_.count()
    )
    rows = left_join(left_join(spine, known, KEYS), today, KEYS)
    return _finish(_with_today(rows, settings.lifecycle), settings)


def user_activity_rows(summaries: ibis.Table, spine: ibis.Table, settings: FeatureSettings) -> ibis.Table:
    """The same from the spine's users' days before one moment, as `summarize` gives them."""
    return _finish(left_join(spine, summaries, ["user_id"]), settings)


def summarize(past: Past) -> ibis.Table:
    """Each user's days in one row."""
    days = past.rows.mutate(age_s=past.age_s(_.first_unix_s))
    return days.group_by(past.keys).agg(
        first_seen_unix_s=_.first_unix_s.min(),
        last_seen_unix_s=_.last_unix_s.max(),
        returned_unix_s=_.first_unix_s.max(where=_.is_return),
        events=_.events.sum().cast("int64"),
        active_days=_.count(),
        **{f"visits_{days}d": _.count(where=_.age_s <= days * DAY_S) for days in VISIT_WINDOWS_DAYS},
    )


def _with_today(rows: ibis.Table, settings: LifecycleSettings) -> ibis.Table:
    """Adds the part of the last day that is before the moment."""
    came = rows.today_first_unix_s.notnull()
    is_return = rows.today_first_unix_s - rows.last_seen_unix_s >= settings.dormant_after_days * DAY_S
    visits = {name: rows[name].fill_null(0) + came.cast("int64") for name in rows.columns if name.startswith("visits")}
    return rows.mutate(
        first_seen_unix_s=rows.first_seen_unix_s.coalesce(rows.today_first_unix_s),
        last_seen_unix_s=rows.today_last_unix_s.coalesce(rows.last_seen_unix_s),
        returned_unix_s=ibis.cases((is_return, rows.today_first_unix_s), else_=rows.returned_unix_s),
        events=rows.events.fill_null(0) + rows.today_events.fill_null(0),
        active_days=rows.active_days.fill_null(0) + came.cast("int64"),
        **visits,
    ).drop("today_first_unix_s", "today_last_unix_s", "today_events")


def _finish(rows: ibis.Table, settings: FeatureSettings) -> ibis.Table:
    """What follows from the summary and the moment."""
    integers = ["events", "active_days", *(f"visits_{days}d" for days in VISIT_WINDOWS_DAYS)]
    rows = rows.mutate(**{name: rows[name].fill_null(0).cast("int64") for name in integers})
    span_days = (_.last_seen_unix_s // facts.DAY - _.first_seen_unix_s // facts.DAY).cast("float64")
    rows = rows.mutate(
        mean_gap_days=ibis.cases((_.active_days >= 2, span_days / (_.active_days - 1))).cast("float32"),
        tail_percentile=share_of_others(_.events, group_by="as_of", above=True).cast("float32"),
        age_s=seconds(_.as_of) - _.first_seen_unix_s,
        idle_s=seconds(_.as_of) - _.last_seen_unix_s,
        since_return_s=seconds(_.as_of) - _.returned_unix_s,
    )
    return _with_state(rows, settings.lifecycle).drop("age_s", "idle_s", "since_return_s")


def item_stats(events: ibis.Table, items: ibis.Table, as_of: datetime, settings: FeatureSettings) -> ibis.Table:
    """(item_id, as_of) → the features of `contract.ITEM_STATS`, for every item of the catalogue or the log."""
    past = facts.prepare(events.filter(events.event_time < moment(as_of)), settings)
    return item_stats_rows(facts.items(facts.pairs(past), past, as_of), items, as_of)


def item_counts(events: ibis.Table, spine: ibis.Table) -> ibis.Table:
    """(item_id, as_of) → what of `contract.ITEM_STATS` each event of the item changes, for any moments of any items."""
    keys = ["item_id", "as_of"]
    timed = spine.select(*keys, as_of_us=microseconds(spine.as_of))
    past = timed.join(events, [timed.item_id == events.item_id, events.event_us < timed.as_of_us])
    counts = past.group_by(keys).agg(
        exposures=_.count(where=_.event_type == EXPOSURE),
        engagements=_.count(where=_.weight > 0),
        first_us=_.event_us.min(),
    )
    rows = left_join(spine.select(keys), counts, keys)
    return rows.select(
        *keys,
        exposures=rows.exposures.fill_null(0),
        engagements=rows.engagements.fill_null(0),
        first_seen_unix_s=(rows.first_us // 1_000_000).cast("int64"),
    )


def item_stats_rows(known: ibis.Table, items: ibis.Table, as_of: datetime) -> ibis.Table:
    """The same from `facts.items`."""
    every = items.select("item_id").union(known.select("item_id"), distinct=True)
    listed = items.select("item_id", "title", "category", "price", "withdrawn")
    rows = left_join(left_join(every, known.drop("users"), ["item_id"]), listed, ["item_id"])
    users = known.agg(users=_.users.max())
    mean = known.agg(mean=_.followed.sum() / _.saw.sum().nullif(0))  # null when nothing was ever exposed
    counts = ("exposures", "engagements", "engaged_users", "engagements_30d", "saw", "followed")
    rows = rows.mutate(
        **{name: rows[name].fill_null(0) for name in counts},
        first_seen_unix_s=(rows.first_us // 1_000_000).cast("int64"),
        title=rows.title.fill_null(""),
        category=rows.category.fill_null(""),
        price=rows.price.cast("float32"),
        withdrawn=rows.withdrawn.fill_null(False),
        as_of=moment(as_of),
    )
    rows = rows.cross_join(users).cross_join(mean)
    return rows.mutate(
        popularity_percentile=share_of_others(_.engagements, group_by=None, above=False).cast("float32"),
        novelty_bits=-((_.engaged_users + 1) / (_.users.fill_null(0) + 1)).log2().cast("float32"),
        engagement_rate=((_.followed + RATE_PRIOR_USERS * _["mean"]) / (_.saw + RATE_PRIOR_USERS)).cast("float32"),
    ).drop("users", "mean", "saw", "followed", "first_us")


def _past_engagements(events: ibis.Table, spine: ibis.Table, settings: FeatureSettings) -> Past:
    engaged = facts.engagements(facts.prepare(events, settings))
    timed = spine.mutate(as_of_us=microseconds(spine.as_of))
    past = timed.join(engaged, [timed.user_id == engaged.user_id, engaged.event_us < timed.as_of_us])
    return Past(rows=past.select(*KEYS, "item_id", "event_type", "unix_s", "weight"))


def _history(last: Past, keys: Sequence[str]) -> ibis.Table:
    rows = last.rows
    return lists(
        rows,
        order="place",
        keys=keys,
        history_item_ids=rows.item_id,
        history_event_types=rows.event_type,
        history_unix_s=rows.unix_s,
    )


def _counts(last: Past) -> ibis.Table:
    aged = last.rows.mutate(age_s=last.age_s(_.unix_s))
    by_type = aged.group_by([*last.keys, "event_type"]).agg(
        **{f"n{days}": _.count(where=_.age_s <= days * DAY_S) for days in COUNT_WINDOWS_DAYS}
    )
    return lists(
        by_type,
        order="event_type",
        keys=last.keys,
        count_event_types=by_type.event_type,
        counts_1d=by_type.n1,
        counts_7d=by_type.n7,
        counts_30d=by_type.n30,
    )


def _affinities(weights: ibis.Table, keys: Sequence[str]) -> ibis.Table:
    total = weights.weight.sum().over(group_by=keys)
    place = ibis.row_number().over(group_by=keys, order_by=[ibis.desc("weight"), ibis.asc("category")])
    best = weights.mutate(share=weights.weight / total, place=place).filter(_.place < AFFINITY_LENGTH)
    return lists(
        best,
        order="place",
        keys=keys,
        affinity_categories=best.category,
        affinity_shares=best.share.cast("float32"),
    )


def beside(left: ibis.Table, right: ibis.Table, keys: Sequence[str]) -> ibis.Table:
    """Two tables with a row each for the same keys as one."""
    more = right.drop([name for name in right.columns if name in left.columns and name not in keys])
    return left.join(more, list(keys))


def _with_state(rows: ibis.Table, settings: LifecycleSettings) -> ibis.Table:
    """`lifecycle.state_at` as columns."""
    dormant_s, at_risk_s = settings.dormant_after_days * DAY_S, settings.at_risk_after_days * DAY_S
    new_s, resurrected_s = settings.new_days * DAY_S, settings.resurrected_days * DAY_S
    since_new_s = ibis.least(_.age_s - new_s, (_.since_return_s - resurrected_s).fill_null(float("inf")))
    is_unseen = rows.last_seen_unix_s.isnull()
    is_back = (_.since_return_s < resurrected_s).fill_null(False)
    branches = [
        (is_unseen, Lifecycle.NEW, ibis.literal(0.0)),
        (_.idle_s >= dormant_s, Lifecycle.DORMANT, _.idle_s - dormant_s),
        (_.idle_s >= at_risk_s, Lifecycle.AT_RISK, _.idle_s - at_risk_s),
        (_.age_s < new_s, Lifecycle.NEW, _.age_s),
        (is_back, Lifecycle.RESURRECTED, _.since_return_s),
        (_.visits_28d >= settings.active_min_visits_28d, Lifecycle.ACTIVE, since_new_s),
    ]
    state = ibis.cases(*((when, str(name)) for when, name, _s in branches), else_=str(Lifecycle.CASUAL))
    in_state_s = ibis.cases(*((when, seconds) for when, _name, seconds in branches), else_=since_new_s)
    return rows.mutate(state=state, days_in_state=(ibis.greatest(in_state_s, 0.0) / DAY_S).cast("float32"))
