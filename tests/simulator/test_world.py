"""The made-up world is what its page says: its truth is exact, and luck does not depend on what is done."""

from __future__ import annotations

import copy
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from simulator.world import HORIZON_DAYS, World, WorldSettings, first_midnight, item_id, number_of, user_id

SETTINGS = WorldSettings(users=400, items=60, tastes=4, past_days=60)
START = datetime(2026, 1, 1, tzinfo=UTC)
SLATE = (0, 1, 2, 3, 4)


def world(seed: int = 1, settings: WorldSettings = SETTINGS) -> World:
    made = World(settings, seed=seed, start=START)
    made.live(settings.past_days)
    return made


def test_a_seed_is_one_world() -> None:
    first, second = (World(SETTINGS, seed=3, start=START).live(30) for _ in range(2))
    assert first == second
    assert World(SETTINGS, seed=4, start=START).live(30) != first


def test_acts_are_of_their_day_and_in_the_past_of_the_evening() -> None:
    one = World(SETTINGS, seed=1, start=START)
    for day in range(20):
        acts = one.live(1)
        assert all(one.start <= act.at < one.evening(day) and (act.at - one.start).days == day for act in acts)


def test_those_who_are_not_contacted_live_as_they_would_have() -> None:
    quiet, other = world(), world()
    contacted = np.arange(0, 400, 4)
    other.contact(contacted, [SLATE] * len(contacted))
    spared = set(range(400)) - set(contacted.tolist())
    first, second = ([act for act in one.live(14) if act.user in spared] for one in (quiet, other))
    assert first == second


def test_the_lift_is_the_share_that_a_contact_adds() -> None:
    """Against many draws of luck: the same people, other seeds of the days that follow."""
    base = world(settings=replace(SETTINGS, effect=2.0))
    users = np.arange(400)
    slates = [SLATE] * 400
    truth = base.truth(users, slates)
    back = {False: np.zeros(400), True: np.zeros(400)}
    lives = 80
    for luck in range(lives):
        for contacts in (False, True):
            life = copy.deepcopy(base)
            life._seed = 1000 + luck
            if contacts:
                life.contact(users, slates)
            back[contacts][sorted({act.user for act in life.live(HORIZON_DAYS)})] += 1
    error = 4 * 0.5 / np.sqrt(400 * lives)
    assert back[False].mean() / lives == pytest.approx(truth.base.mean(), abs=error)
    assert (back[True] - back[False]).mean() / lives == pytest.approx(truth.lift.mean(), abs=2 * error)
    for part in (base.is_sleeping_dog, base.has_left):
        counted = (back[True] - back[False])[part].mean() / lives
        assert counted == pytest.approx(truth.lift[part].mean(), abs=0.06)


def test_who_has_left_cannot_be_won_and_sleeping_dogs_are_lost() -> None:
    made = world()
    truth = made.truth(np.arange(400), [SLATE] * 400)
    assert np.all(truth.lift[made.has_left] == 0)
    assert truth.lift[made.is_sleeping_dog & (truth.base > 0.5)].max() < 0
    assert truth.lift[~made.is_sleeping_dog].min() >= 0


def test_items_that_fit_do_more_and_shown_again_less() -> None:
    made = world()
    user = int(np.flatnonzero(~made.has_left & ~made.is_sleeping_dog)[0])
    likes = made.interest[user, made.taste_of]
    best, worst = np.argsort(-likes)[:5].tolist(), np.argsort(likes)[:5].tolist()
    lift = {
        name: float(made.truth(np.array([user]), [slate]).lift[0]) for name, slate in (("best", best), ("worst", worst))
    }
    assert lift["best"] > lift["worst"]
    made.contact(np.array([user]), [best])
    assert made.truth(np.array([user]), [best]).lift[0] < lift["best"]


def test_where_a_contact_does_nothing_all_live_on_alike() -> None:
    null = replace(SETTINGS, effect=0.0)
    quiet, busy = world(settings=null), world(settings=null)
    reached = busy.contact(np.arange(400), [SLATE] * 400)
    assert not reached.lift.any()
    assert not reached.opted_out.any()
    assert quiet.live(14) == busy.live(14)


def test_ids_come_back_as_numbers() -> None:
    assert number_of(user_id(12, 345)) == 345
    assert number_of(item_id(67)) == 67


def test_a_world_ends_before_today() -> None:
    now = datetime(2026, 5, 5, 13, tzinfo=UTC)
    assert World(SETTINGS, seed=1, start=first_midnight(now, 31)).evening(29) < now
