"""Whoever asks before each contact never breaks a cap, a pause, quiet hours or a user's wish."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.contract import FeatureValue
from feature_repo.lifecycle import Lifecycle
from longtail.activation.v1 import activation_pb2 as pb
from serving.gateway.domain import Row
from serving.gateway.policy.book import parse
from serving.gateway.policy.contact_rules import Contacts, refusal, with_chosen
from serving.gateway.policy.document import Policy
from tests.gateway.conftest import Start
from tests.gateway.fakes import NOW_S, World

HOUR_S, DAY_S = 3_600.0, 86_400.0
NOON_S = 1_800_000_000 // 86_400 * DAY_S + 12 * HOUR_S
CAPS = {1: 2, 7: 3, 30: 5}
SPACING_H = 6
POLICY = parse(
    """
[contacts.caps]
contacts_1d = 3
contacts_7d = 4
contacts_30d = 6
spacing_h = 1
[channels.push]
quiet_from_h = 22
quiet_until_h = 7
caps = { contacts_1d = 2, contacts_7d = 3, contacts_30d = 5, spacing_h = 6 }
[channels.email]
quiet_from_h = 0
quiet_until_h = 0
caps = { contacts_1d = 2, contacts_7d = 3, contacts_30d = 5, spacing_h = 6 }
""",
    where="",
)
CHANNELS = ("push", "email")

Sent = Sequence[tuple[str, float]]


def refused(
    channel: str, sent: Sent, at: float, *, opted_out: Sequence[str] = (), policy: Policy = POLICY, days: float = 90.0
) -> str:
    contacts = Contacts(sent=tuple(sent), opted_out=frozenset(opted_out))
    return refusal(channel, [contacts], state=Lifecycle.ACTIVE, days_in_state=days, policy=policy, now_unix_s=at)


def most_within(times: Sequence[float], days: float) -> int:
    return max((sum(0 <= at - start < days * DAY_S for at in times) for start in times), default=0)


@given(st.lists(st.tuples(st.sampled_from(CHANNELS), st.floats(0.1, 40.0)), max_size=60))
def test_no_window_of_any_life_holds_more_than_its_caps(wishes: list[tuple[str, float]]) -> None:
    sent: list[tuple[str, float]] = []
    at = NOON_S
    for channel, wait_h in wishes:
        at += wait_h * HOUR_S
        if not refused(channel, sent, at):
            sent.append((channel, at))
    for channel in CHANNELS:
        times = [time for one, time in sent if one == channel]
        assert all(most_within(times, days) <= cap for days, cap in CAPS.items())
        assert all(later - sooner >= SPACING_H * HOUR_S for sooner, later in pairwise(times))
    every = [time for _, time in sent]
    assert all(most_within(every, days) <= cap for days, cap in {1: 3, 7: 4, 30: 6}.items())
    assert not [at for channel, at in sent if channel == "push" and not 7 <= at / HOUR_S % 24 < 22]


@given(st.lists(st.floats(1.0, 60.0), max_size=8), st.floats(0.0, 60.0))
def test_a_wish_to_be_left_alone_stands_above_everything(ages_days: list[float], later_days: float) -> None:
    sent = [("push", NOON_S - age * DAY_S) for age in ages_days]
    at = NOON_S + later_days * DAY_S
    assert refused("push", sent, at, opted_out=["push"])
    assert refused("push", sent, at, opted_out=[""])
    assert refused("email", [], at, opted_out=["push"]) == ""


@pytest.mark.parametrize(
    ("sent_h", "reason"),
    [
        ([2], "spacing"),
        ([7, 14], "cap_1d"),
        ([30, 60, 90], "cap_7d"),
        ([200, 300, 400, 500, 600], "cap_30d"),
        ([], ""),
    ],
)
def test_the_reason_is_the_rule_that_refuses(sent_h: list[float], reason: str) -> None:
    assert refused("push", [("push", NOON_S - hours * HOUR_S) for hours in sent_h], NOON_S) == reason


def test_other_channels_count_towards_what_holds_for_all() -> None:
    assert refused("push", [("email", NOON_S - HOUR_S / 2)], NOON_S) == "all_channels_spacing"


def test_a_user_just_back_is_contacted_less() -> None:
    policy = parse(
        """
[states.active]
objective = "retain"
exploration_rate = 0.0
ramp_up_days = 10
[channels.push]
caps = { contacts_1d = 1, contacts_7d = 2, contacts_30d = 6, spacing_h = 6 }
""",
        where="",
    )
    assert refused("push", [], NOON_S, policy=policy, days=0.0) == "ramp_up"
    assert refused("push", [], NOON_S, policy=policy, days=10.0) == ""


def test_a_contact_that_was_chosen_counts_before_its_event_comes_back() -> None:
    recorded = Contacts(sent=(("push", NOON_S - 5 * DAY_S),))
    histories = with_chosen(recorded, [("push", NOON_S - HOUR_S)])
    asked = refusal("push", histories, state=Lifecycle.ACTIVE, days_in_state=90.0, policy=POLICY, now_unix_s=NOON_S)
    assert asked == "spacing"


def test_a_channel_is_the_same_however_events_spell_it() -> None:
    row: dict[str, FeatureValue] = {
        "channels": ["Push "],
        "contact_channel_places": [0],
        "contact_gaps_s": [NOON_S - HOUR_S],
        "opted_out_channels": ["Email"],
    }
    recorded = Contacts.of(row)
    assert recorded == Contacts(sent=(("push", NOON_S - HOUR_S),), opted_out=frozenset({"email"}))
    for channel, reason in (("push", "spacing"), ("email", "opted_out")):
        histories = with_chosen(recorded, [("PUSH", NOON_S - HOUR_S)])
        asked = refusal(
            channel, histories, state=Lifecycle.ACTIVE, days_in_state=90.0, policy=POLICY, now_unix_s=NOON_S
        )
        assert asked == reason
        assert (
            refusal(
                channel, histories[1:], state=Lifecycle.ACTIVE, days_in_state=90.0, policy=POLICY, now_unix_s=NOON_S
            )
            == reason
        )


async def test_a_user_who_opted_out_is_suppressed_with_the_reason(start: Start, world: World) -> None:
    world.features.rows["dormant"]["user_contacts"] = Row(
        values={"opted_out_channels": ["email"]}, event_unix_s=NOW_S - 60
    )
    running = await start(world)
    answer = await running.activation.RankItems(pb.RankItemsRequest(user_id="dormant", channel="email"))
    assert answer.decision == pb.DECISION_SUPPRESSED
    assert answer.decision_reason in ("opted_out", "quiet_hours")
    assert not answer.items
    shown = await running.activation.RankItems(pb.RankItemsRequest(user_id="dormant", channel="in_app"))
    assert shown.decision != pb.DECISION_SUPPRESSED or shown.decision_reason != "opted_out"
