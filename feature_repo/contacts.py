"""The view `user_contacts` as an Ibis expression: contacts, choices of channels, and what was shown in vain."""

from __future__ import annotations

import ibis
from ibis import _

from feature_repo.contract import CONTACT_LENGTH, EXPOSED_LENGTH
from feature_repo.events import CONTACT, EXPOSURE, OPT_IN, OPT_OUT
from feature_repo.expressions import KEYS, complete, lists, seconds, unix_s, weight
from feature_repo.lifecycle import DAY_S
from feature_repo.settings import FeatureSettings


def user_contacts(events: ibis.Table, spine: ibis.Table, settings: FeatureSettings) -> ibis.Table:
    """(user_id, as_of) → the features of `contract.USER_CONTACTS`.

    The same channel and second is one contact. Of an opt-out and an opt-in in the same second the opt-out counts.
    """
    past = spine.join(events, [spine.user_id == events.user_id, events.event_time < spine.as_of])
    past = past.mutate(unix_s=unix_s(past.event_time), channel=past.surface)
    rows = complete(spine, _contacts(past))
    for more in (_per_channel(past), _choices(past), _exposed_in_vain(past, settings)):
        rows = rows.join(complete(spine, more), KEYS)
    return rows


def _recent_contacts(past: ibis.Table) -> ibis.Table:
    contacts = past.filter(past.event_type == CONTACT).select(*KEYS, "channel", "unix_s").distinct()
    place = ibis.row_number().over(group_by=KEYS, order_by=[ibis.desc("unix_s"), ibis.asc("channel")])
    return contacts.mutate(place=place).filter(_.place < CONTACT_LENGTH)


def _contacts(past: ibis.Table) -> ibis.Table:
    recent = _recent_contacts(past)
    return lists(recent, order="place", contact_channels=recent.channel, contact_unix_s=recent.unix_s)


def _per_channel(past: ibis.Table) -> ibis.Table:
    recent = _recent_contacts(past).mutate(age_s=seconds(_.as_of) - _.unix_s)
    by_channel = recent.group_by([*KEYS, "channel"]).agg(
        last_unix_s=_.unix_s.max(), **{f"n{days}": _.count(where=_.age_s <= days * DAY_S) for days in (1, 7, 30)}
    )
    return lists(
        by_channel,
        order="channel",
        channels=by_channel.channel,
        contacts_1d=by_channel.n1,
        contacts_7d=by_channel.n7,
        contacts_30d=by_channel.n30,
        last_contact_unix_s=by_channel.last_unix_s,
    )


def _choices(past: ibis.Table) -> ibis.Table:
    chosen = past.filter(past.event_type.isin((OPT_OUT, OPT_IN))).group_by([*KEYS, "channel"])
    last = chosen.agg(
        unix_s=_.unix_s.max(),
        out_unix_s=_.unix_s.max(where=_.event_type == OPT_OUT),
        in_unix_s=_.unix_s.max(where=_.event_type == OPT_IN),
    )
    is_out = last.out_unix_s.notnull() & (last.in_unix_s.isnull() | (last.out_unix_s >= last.in_unix_s))
    every = lists(
        last,
        order="channel",
        choice_channels=last.channel,
        choice_unix_s=last.unix_s,
        opted_out_channels=ibis.cases((is_out, last.channel)),
    )
    return every.mutate(opted_out_channels=every.opted_out_channels.filter(lambda channel: channel.notnull()))


def _exposed_in_vain(past: ibis.Table, settings: FeatureSettings) -> ibis.Table:
    """Items shown after the user's last engagement with them. An exposure in that very second came before it."""
    past = past.filter(past.item_id != "").mutate(is_engagement=weight(_.event_type, settings) > 0)
    touched = past.filter(past.is_engagement | (past.event_type == EXPOSURE))
    touched = touched.mutate(engaged_unix_s=_.unix_s.max(where=_.is_engagement).over(group_by=[*KEYS, "item_id"]))
    in_vain = touched.filter((_.event_type == EXPOSURE) & (_.engaged_unix_s.isnull() | (_.unix_s > _.engaged_unix_s)))
    by_item = in_vain.group_by([*KEYS, "item_id"]).agg(shown=_.count(), unix_s=_.unix_s.max())
    place = ibis.row_number().over(group_by=KEYS, order_by=[ibis.desc("unix_s"), ibis.asc("item_id")])
    last = by_item.mutate(place=place).filter(_.place < EXPOSED_LENGTH)
    return lists(
        last, order="place", exposed_item_ids=last.item_id, exposed_counts=last.shown, exposed_unix_s=last.unix_s
    )
