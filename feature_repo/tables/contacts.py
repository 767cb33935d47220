"""The view `user_contacts` as an Ibis expression: contacts, choices of channels, and what was shown in vain."""

from __future__ import annotations

import ibis
from ibis import _

from feature_repo.contract import CONTACT_LENGTH, EXPOSED_LENGTH
from feature_repo.events import CONTACT, CONTACT_TYPES, EXPOSURE, OPT_IN, OPT_OUT
from feature_repo.lifecycle import DAY_S
from feature_repo.settings import FeatureSettings
from feature_repo.tables import facts
from feature_repo.tables.expressions import KEYS, complete, gaps, lists, microseconds, places
from feature_repo.tables.views import COUNT_WINDOWS_DAYS, Past, beside


def user_contacts(events: ibis.Table, spine: ibis.Table, settings: FeatureSettings) -> ibis.Table:
    """(user_id, as_of) → the features of `contract.USER_CONTACTS`.

    The same channel and second is one contact. Of an opt-out and an opt-in in the same second the opt-out counts.
    """
    events = facts.prepare(events, settings)
    timed = spine.mutate(as_of_us=microseconds(spine.as_of))
    past = timed.join(events, [timed.user_id == events.user_id, events.event_us < timed.as_of_us])
    past = past.select(*KEYS, "item_id", "event_type", "event_us", "unix_s", "weight", "surface")
    engaged = past.filter((past.weight > 0) & (past.item_id != ""))
    engaged = engaged.group_by([*KEYS, "item_id"]).agg(engaged_us=_.event_us.max())
    return user_contacts_rows(Past(rows=past), engaged, spine)


def user_contacts_rows(past: Past, engaged: ibis.Table, spine: ibis.Table) -> ibis.Table:
    """The same from exposures and contacts before the moment, and when each user last engaged with each item."""
    of_channels = past.rows.filter(past.rows.event_type.isin(CONTACT_TYPES))
    of_channels = of_channels.mutate(channel=of_channels.surface)
    last = _recent_contacts(of_channels, past)
    recent = beside(_contacts(last, past), _per_channel(last, past), past.keys)
    recent = recent.mutate(contact_channel_places=places(recent.contact_channels, recent.channels))
    recent = recent.drop("contact_channels")
    return complete(spine, [recent, _opt_outs(of_channels, past), _exposed_in_vain(past, engaged)], past.keys)


def _recent_contacts(of_channels: ibis.Table, past: Past) -> ibis.Table:
    contacts = of_channels.filter(_.event_type == CONTACT).select(*past.keys, "channel", "unix_s").distinct()
    place = ibis.row_number().over(group_by=past.keys, order_by=[ibis.desc("unix_s"), ibis.asc("channel")])
    return contacts.mutate(place=place).filter(_.place < CONTACT_LENGTH)


def _contacts(last: ibis.Table, past: Past) -> ibis.Table:
    rows = lists(last, order="place", keys=past.keys, contact_channels=last.channel, contact_unix_s=last.unix_s)
    return rows.mutate(contact_gaps_s=gaps(rows.contact_unix_s)).drop("contact_unix_s")


def _per_channel(last: ibis.Table, past: Past) -> ibis.Table:
    aged = last.mutate(age_s=past.age_s(_.unix_s))
    by_channel = aged.group_by([*past.keys, "channel"]).agg(
        **{f"n{days}": _.count(where=_.age_s <= days * DAY_S) for days in COUNT_WINDOWS_DAYS},
    )
    return lists(
        by_channel,
        order="channel",
        keys=past.keys,
        channels=by_channel.channel,
        contacts_1d=by_channel.n1,
        contacts_7d=by_channel.n7,
        contacts_30d=by_channel.n30,
    )


def _opt_outs(of_channels: ibis.Table, past: Past) -> ibis.Table:
    chosen = of_channels.filter(_.event_type.isin((OPT_OUT, OPT_IN))).group_by([*past.keys, "channel"])
    last = chosen.agg(
        out_unix_s=_.unix_s.max(where=_.event_type == OPT_OUT),
        in_unix_s=_.unix_s.max(where=_.event_type == OPT_IN),
    )
    is_out = last.out_unix_s.notnull() & (last.in_unix_s.isnull() | (last.out_unix_s >= last.in_unix_s))
    return lists(last.filter(is_out), order="channel", keys=past.keys, opted_out_channels=last.channel)


def _exposed_in_vain(past: Past, engaged: ibis.Table) -> ibis.Table:
    """Items shown after the user's last engagement with them. An exposure in that very second came before it."""
    pair = [*past.keys, "item_id"]
    shown = past.rows.filter((past.rows.event_type == EXPOSURE) & (past.rows.item_id != ""))
    shown = shown.select(*pair, "unix_s")
    last_engaged = engaged.select(*pair, engaged_unix_s=(engaged.engaged_us // 1_000_000).cast("int64"))
    since = shown.left_join(last_engaged, pair).select(*pair, "unix_s", "engaged_unix_s")
    in_vain = since.filter(since.engaged_unix_s.isnull() | (since.unix_s > since.engaged_unix_s))
    by_item = in_vain.group_by(pair).agg(shown=_.count(), unix_s=_.unix_s.max())
    place = ibis.row_number().over(group_by=past.keys, order_by=[ibis.desc("unix_s"), ibis.asc("item_id")])
    last = by_item.mutate(place=place).filter(_.place < EXPOSED_LENGTH)
    rows = lists(
        last,
        order="place",
        keys=past.keys,
        exposed_item_ids=last.item_id,
        exposed_counts=last.shown,
        exposed_unix_s=last.unix_s,
    )
    return rows.mutate(exposed_gaps_s=gaps(rows.exposed_unix_s)).drop("exposed_unix_s")
