"""The views as Ibis expressions over the event log: one definition for the build and for training.

Counts are `count(where=...)`, not sums: DuckDB sums integers into a type that Parquet keeps as floating point.

Point-in-time: a row for (user_id, as_of) uses only events strictly before `as_of`. An event at the very moment
that is to be predicted is not among its own features.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

import ibis
from ibis import _

from feature_repo.contract import HISTORY_LENGTH
from feature_repo.events import EXPOSURE, NOT_ACTIVITY
from feature_repo.expressions import KEYS, complete, left_join, lists, moment, seconds, share_of_others, unix_s, weight
from feature_repo.lifecycle import DAY_S, Lifecycle
from feature_repo.settings import FeatureSettings, LifecycleSettings

AFFINITY_CATEGORIES: Final = 5
RATE_PRIOR_USERS: Final = 20.0  # the mean rate weighs as much as so many users who saw the item


def spine_of_all(events: ibis.Table, as_of: datetime) -> ibis.Table:
    """Every user with an event before `as_of`, at `as_of`: what the build and the online store need."""
    users = events.filter(events.event_time < moment(as_of)).select("user_id").distinct()
    return users.mutate(as_of=moment(as_of))


def user_history(events: ibis.Table, spine: ibis.Table, settings: FeatureSettings) -> ibis.Table:
    """(user_id, as_of) → history_item_ids, history_event_types, history_unix_s: the last engagements, newest first.

    The same user, item, type and second is one engagement. Within a second the order is that of item_id, then type,
    so that the order of arrival does not matter (`user_state`).
    """
    recent = _recent(events, spine, settings)
    rows = lists(
        recent,
        order="place",
        history_item_ids=recent.item_id,
        history_event_types=recent.event_type,
        history_unix_s=recent.unix_s,
    )
    return complete(spine, rows)


def user_behavior(events: ibis.Table, items: ibis.Table, spine: ibis.Table, settings: FeatureSettings) -> ibis.Table:
    """(user_id, as_of) → the features of `contract.USER_BEHAVIOR`."""
    history = user_history(events, spine, settings)
    counts = complete(spine, _counts(events, spine, settings))
    affinities = complete(spine, _affinities(events, items, spine, settings))
    return history.join(counts, KEYS).join(affinities, KEYS)


def user_activity(events: ibis.Table, spine: ibis.Table, settings: FeatureSettings) -> ibis.Table:
    """(user_id, as_of) → the features of `contract.USER_ACTIVITY` but the two of BG/NBD, which `bgnbd` adds.

    Exposures and contacts are not activity: they are what we did, not the user. `tail_percentile` compares with the
    spine's users at the same `as_of`, so it means something on the spine of all users only.
    """
    acts = _acts(events, settings.lifecycle)
    past = spine.join(acts, [spine.user_id == acts.user_id, acts.event_time < spine.as_of])
    past = past.mutate(age_s=seconds(_.as_of) - _.unix_s)
    known = past.group_by(KEYS).agg(
        first_seen_unix_s=_.unix_s.min(),
        last_seen_unix_s=_.unix_s.max(),
        returned_unix_s=_.unix_s.max(where=_.is_return),
        events=_.count(),
        active_days=_.count(where=_.starts_day),
        **{f"visits_{days}d": _.count(where=_.starts_day & (_.age_s <= days * DAY_S)) for days in (7, 28, 90)},
    )
    rows = left_join(spine, known, KEYS)
    integers = ["events", "active_days", "visits_7d", "visits_28d", "visits_90d"]
    rows = rows.mutate(**{name: rows[name].fill_null(0).cast("int64") for name in integers})
    span_days = (_.last_seen_unix_s // 86_400 - _.first_seen_unix_s // 86_400).cast("float64")
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
    past = events.filter((events.event_time < moment(as_of)) & (events.item_id != ""))
    past = past.mutate(is_engagement=weight(past.event_type, settings) > 0, unix_s=unix_s(past.event_time))
    known = past.group_by("item_id").agg(
        exposures=_.count(where=_.event_type == EXPOSURE),
        engagements=_.count(where=_.is_engagement),
        engaged_users=_.user_id.nunique(where=_.is_engagement),
        engagements_30d=_.count(where=_.is_engagement & (_.unix_s >= as_of.timestamp() - 30 * DAY_S)),
        first_seen_unix_s=_.unix_s.min(),
    )
    every = items.select("item_id").union(past.select("item_id"), distinct=True)
    rows = left_join(every, known, ["item_id"])
    rows = _with_rate(rows, past)
    rows = left_join(rows, items.select("item_id", "title", "category", "price", "withdrawn"), ["item_id"])
    counts = {
        name: rows[name].fill_null(0).cast("int64")
        for name in ("exposures", "engagements", "engaged_users", "engagements_30d")
    }
    users = past.filter(past.is_engagement).agg(users=_.user_id.nunique())
    rows = rows.mutate(
        **counts,
        title=rows.title.fill_null(""),
        category=rows.category.fill_null(""),
        price=rows.price.cast("float32"),
        withdrawn=rows.withdrawn.fill_null(False),
        as_of=moment(as_of),
    ).cross_join(users)
    return rows.mutate(
        popularity_percentile=share_of_others(_.engagements, group_by=None, above=False).cast("float32"),
        novelty_bits=-((_.engaged_users + 1) / (_.users + 1)).log2().cast("float32"),
        engagement_rate=_.engagement_rate.cast("float32"),
    ).drop("users")


def _recent(events: ibis.Table, spine: ibis.Table, settings: FeatureSettings) -> ibis.Table:
    """The last HISTORY_LENGTH engagements of each spine row; `place` 0 is the newest."""
    past = _past_engagements(events, spine, settings)
    place = ibis.row_number().over(
        group_by=KEYS, order_by=[ibis.desc("unix_s"), ibis.asc("item_id"), ibis.asc("event_type")]
    )
    return past.mutate(place=place).filter(_.place < HISTORY_LENGTH)


def _past_engagements(events: ibis.Table, spine: ibis.Table, settings: FeatureSettings) -> ibis.Table:
    engaged = events.mutate(weight=weight(events.event_type, settings), unix_s=unix_s(events.event_time))
    engaged = (
        engaged.filter(engaged.weight > 0)
        .group_by(["user_id", "item_id", "event_type", "unix_s", "weight"])
        .agg(event_time=_.event_time.min())
    )
    past = spine.join(engaged, [spine.user_id == engaged.user_id, engaged.event_time < spine.as_of])
    return past.select(*KEYS, "item_id", "event_type", "unix_s", "weight")


def _counts(events: ibis.Table, spine: ibis.Table, settings: FeatureSettings) -> ibis.Table:
    recent = _recent(events, spine, settings).mutate(age_s=seconds(_.as_of) - _.unix_s)
    by_type = recent.group_by([*KEYS, "event_type"]).agg(
        **{f"n{days}": _.count(where=_.age_s <= days * DAY_S) for days in (1, 7, 30)}
    )
    return lists(
        by_type,
        order="event_type",
        count_event_types=by_type.event_type,
        counts_1d=by_type.n1,
        counts_7d=by_type.n7,
        counts_30d=by_type.n30,
    )


def _affinities(events: ibis.Table, items: ibis.Table, spine: ibis.Table, settings: FeatureSettings) -> ibis.Table:
    categories = items.select("item_id", category=items.categories.unnest())
    past = _past_engagements(events, spine, settings)
    weighed = past.join(categories, "item_id").group_by([*KEYS, "category"]).agg(weight=_.weight.sum())
    shares = weighed.mutate(share=_.weight / _.weight.sum().over(group_by=KEYS))
    place = ibis.row_number().over(group_by=KEYS, order_by=[ibis.desc("share"), ibis.asc("category")])
    best = shares.mutate(place=place).filter(_.place < AFFINITY_CATEGORIES)
    return lists(best, order="place", affinity_categories=best.category, affinity_shares=best.share.cast("float32"))


def _acts(events: ibis.Table, settings: LifecycleSettings) -> ibis.Table:
    """What users did, each with whether it starts a day of theirs and whether it ends a dormant absence."""
    acts = events.filter(events.event_type.notin(NOT_ACTIVITY))
    acts = acts.select("user_id", "event_time", "event_id", unix_s=unix_s(acts.event_time))
    before = acts.unix_s.lag().over(group_by="user_id", order_by=["event_time", "event_id"])
    acts = acts.mutate(before_unix_s=before)
    starts_day = acts.before_unix_s.isnull() | (acts.before_unix_s // 86_400 < acts.unix_s // 86_400)
    is_return = acts.unix_s - acts.before_unix_s >= settings.dormant_after_days * DAY_S
    return acts.select("user_id", "event_time", "unix_s", starts_day=starts_day, is_return=is_return.fill_null(False))


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


def _with_rate(rows: ibis.Table, past: ibis.Table) -> ibis.Table:
    """Of the users who saw the item, the share who then engaged, drawn to the mean of all items."""
    pair = ["item_id", "user_id"]
    seen = past.filter(past.event_type == EXPOSURE).group_by(pair).agg(seen_at=_.event_time.min())
    engaged = past.filter(past.is_engagement).group_by(pair).agg(engaged_at=_.event_time.max())
    pairs = left_join(seen, engaged, pair)
    pairs = pairs.mutate(followed=(pairs.engaged_at >= pairs.seen_at).fill_null(False))
    by_item = pairs.group_by("item_id").agg(saw=_.count(), followed=_.count(where=_.followed))
    mean = by_item.agg(mean=_.followed.sum() / _.saw.sum())  # null when nothing was ever exposed
    rows = left_join(rows, by_item, ["item_id"]).cross_join(mean)
    rate = (rows.followed.fill_null(0) + RATE_PRIOR_USERS * rows["mean"]) / (rows.saw.fill_null(0) + RATE_PRIOR_USERS)
    return rows.mutate(engagement_rate=rate).drop("saw", "followed", "mean")
