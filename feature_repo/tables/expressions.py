"""The small expressions that views are made of, the same on every engine."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import ibis
from ibis import _

from feature_repo.events import EPOCH
from feature_repo.settings import FeatureSettings

KEYS: Final = ["user_id", "as_of"]


def share_of_others(column: ibis.Value, *, group_by: str | None, above: bool) -> ibis.Value:
    """The share of the other rows with more (`above`) or less than the row's value; equals count half. 1 if alone."""
    order = ibis.desc(column) if above else ibis.asc(column)
    rows = ibis.window(group_by=group_by)
    beyond = ibis.rank().over(group_by=group_by, order_by=order)
    equal = _.count().over(ibis.window(group_by=[column] if group_by is None else [group_by, column]))
    others = _.count().over(rows) - 1
    return ibis.cases((others > 0, (beyond + (equal - 1) / 2) / others), else_=1.0)


def lists(rows: ibis.Table, *, order: str, keys: Sequence[str] = KEYS, **columns: ibis.Value) -> ibis.Table:
    """keys → a list of each of `columns`, ordered by the column `order`, which is unique per key."""
    fields = {"order": rows[order], **columns}
    grouped = rows.group_by(list(keys)).agg(entries=ibis.struct(fields).collect())
    entries = grouped.entries.sort()  # by the first field; engines differ in what an ordered collect can do
    return grouped.select(*keys, **{name: entries.map(lambda entry, name=name: entry[name]) for name in columns})


def gaps(times: ibis.Value) -> ibis.Value:
    """`packed_lists.gaps` of a column of lists."""
    return times.map(lambda time, place: ibis.cases((place == 0, time), else_=times[place - 1] - time))


def places(words: ibis.Value, listed: ibis.Value) -> ibis.Value:
    """`packed_lists.places` of two columns of lists."""
    return words.map(lambda word: listed.index(word))  # noqa: PLW0108  Ibis names what it passes


def complete(spine: ibis.Table, parts: Sequence[ibis.Table], keys: Sequence[str] = KEYS) -> ibis.Table:
    """One row per spine row with the columns of all parts; empty lists where there is nothing."""
    joined = spine
    for part in parts:
        joined = left_join(joined, part, keys)
    lists = {name: joined[name] for name in joined.columns if name not in spine.columns}
    return joined.mutate(
        **{name: column.fill_null(ibis.literal([], type=column.type())) for name, column in lists.items()}
    )


def left_join(left: ibis.Table, right: ibis.Table, keys: Sequence[str]) -> ibis.Table:
    joined = left.left_join(right, list(keys))
    return joined.drop([name for name in joined.columns if name in {f"{key}_right" for key in keys}])


def weight(event_type: ibis.Value, settings: FeatureSettings) -> ibis.Value:
    branches = [(event_type == name, float(weight)) for name, weight in settings.event_weights.items()]
    if not branches:
        return ibis.literal(float(settings.default_event_weight))
    return ibis.cases(*branches, else_=float(settings.default_event_weight))


def moment(moment: datetime) -> ibis.Value:
    return ibis.literal(moment, type="timestamp('UTC', 6)")


def microseconds(time: ibis.Value) -> ibis.Value:
    """Whole microseconds since 1970."""
    return time.delta(moment(EPOCH), unit="microsecond").cast("int64")


def seconds(time: ibis.Value) -> ibis.Value:
    """Seconds since 1970 to the microsecond, as `datetime.timestamp()` gives them."""
    return microseconds(time) / 1e6
