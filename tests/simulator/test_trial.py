"""A small world through the real gateway, over gRPC, without a model: the order is item statistics' then."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from simulator.stage import free_address
from simulator.study import Kept
from simulator.trial import LONGTAIL, NOBODY, RIVALS, TrialSettings, run
from simulator.world import WorldSettings

SETTINGS = TrialSettings(
    world=WorldSettings(users=250, items=60, tastes=4, past_days=70), rounds=1, contacts=100, holdout=0.4
)


@pytest.mark.timeout(180)
def test_a_world_is_lived_with_longtail_and_without(tmp_path: Path) -> None:
    lived = run(
        SETTINGS,
        seed=1,
        now=datetime.now(UTC),
        directory=tmp_path / "trial",
        models=tmp_path / "no-models",
        model_server=free_address(),
    )
    ours, nobody = lived[LONGTAIL], lived[NOBODY]
    assert all(0 < contacts < SETTINGS.contacts for contacts in ours.contacts)
    assert all(lived[name].contacts == ours.contacts for name in RIVALS)
    assert not any(one.broken_rules for one in lived.values())
    assert ours.incremental > 0 == nobody.incremental
    assert len(ours.intervals) == SETTINGS.rounds
    assert all(one.is_told == (one.verdict != "too_few") for one in ours.intervals)
    assert [one.truth for one in ours.intervals] == ours.lift
    assert nobody.weekly_users > 0

    kept = Kept(tmp_path / "trials.jsonl")
    kept.add(1, SETTINGS, lived)
    assert kept.find(1, SETTINGS) == lived
    assert kept.find(2, SETTINGS) is None
    assert kept.find(1, TrialSettings()) is None
