"""What the load test asks."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from loadtest import profiles
from loadtest.population import UserDraws, synthetic_ids
from loadtest.questions import Question, Questions


def questions(count: int, *, items: int = 500, seed: int = 1, **overrides: Any) -> list[Question]:
    profile = profiles.load("smoke", overrides=overrides)
    users = UserDraws(synthetic_ids("user", 100), profile.users, seed=seed)
    made = Questions(profile=profile, users=users, item_ids=synthetic_ids("item", items), seed=seed)
    return [made.draw() for _ in range(count)]


def test_the_mix_of_requests_is_the_profiles() -> None:
    asked = questions(4000, requests={"rank_candidates": 2, "rank_sources": 1, "user_state": 1})
    kinds = Counter((question.rpc, len(getattr(question.message, "candidate_item_ids", ()))) for question in asked)
    assert kinds["RankItems", 100] / 4000 == pytest.approx(0.5, abs=0.04)
    assert kinds["RankItems", 0] / 4000 == pytest.approx(0.25, abs=0.04)
    assert kinds["GetUserState", 0] / 4000 == pytest.approx(0.25, abs=0.04)


def test_nothing_is_written_unless_asked_for() -> None:
    assert "RecordEvents" not in {question.rpc for question in questions(500)}


def test_candidates_are_distinct_items_as_many_as_there_are() -> None:
    only_candidates = {"rank_candidates": 1, "rank_sources": 0, "user_state": 0}
    for question in questions(20, items=30, requests=only_candidates):
        assert sorted(question.message.candidate_item_ids) == sorted(synthetic_ids("item", 30))


def test_the_same_seed_asks_the_same_and_another_does_not() -> None:
    assert questions(100) == questions(100)
    assert questions(100) != questions(100, seed=2)


def test_every_recorded_event_has_an_id_of_its_own() -> None:
    events = [
        question.message.events[0]
        for question in questions(300, requests={"record_events": 1, "rank_candidates": 0})
        if question.rpc == "RecordEvents"
    ]
    assert len({event.event_id for event in events}) == len(events) > 100
