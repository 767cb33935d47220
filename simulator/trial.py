"""One seed: the same world lived with longtail, with each rival, and with nobody who contacts anyone."""

from __future__ import annotations

import copy
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow.parquet as pq

from feature_repo.layout import StateDir
from feature_repo.lifecycle import Lifecycle
from longtail.activation.v1 import activation_pb2 as pb
from longtail.activation.v1 import feedback_pb2
from outcomes import decisions
from outcomes.activation_report import report_of
from outcomes.event_frame import read_events
from outcomes.returning import Visits
from outcomes.user_days import read_user_days
from serving.gateway.policy.document import Policy
from simulator.rivals import (
    CHANNEL,
    RELEVANCE_ONLY,
    Chosen,
    Round,
    Turn,
    longtail_chooses,
    popularity_chooses,
    relevance_chooses,
)
from simulator.stage import Stage, copy_of, event_of, open_stage, prepare
from simulator.violations import Sent, violations
from simulator.world import HORIZON_DAYS, Act, World, WorldSettings, first_midnight, number_of

LONGTAIL: Final = "longtail"
RELEVANCE: Final = "relevance only"
POPULARITY: Final = "popularity"
NOBODY: Final = "nobody"
RIVALS: Final = (RELEVANCE, POPULARITY)
CONFIDENCE: Final = 0.95


@dataclass(frozen=True, kw_only=True)
class TrialSettings:
    """`contacts` are chosen a round, `holdout` of them held out by longtail; rivals contact as many as it did."""

    world: WorldSettings = field(default_factory=WorldSettings)
    rounds: int = 4
    contacts: int = 200
    holdout: float = 0.25

    @property
    def days(self) -> int:
        return self.world.past_days + self.rounds * HORIZON_DAYS


@dataclass(frozen=True, kw_only=True)
class Interval:
    """What the activation report says of one campaign, and what is true of those it chose; None: too few to tell."""

    low: float | None
    high: float | None
    truth: float
    verdict: str

    @property
    def is_told(self) -> bool:
        return self.low is not None and self.high is not None

    @property
    def covers(self) -> bool:
        return self.low is not None and self.high is not None and self.low <= self.truth <= self.high

    @property
    def excludes_zero(self) -> bool:
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(kw_only=True)
class Lived:
    """What came of one way. `incremental` is how many returns its contacts are truly expected to have added."""

    contacts: list[int] = field(default_factory=list)  # by round
    incremental: float = 0.0
    lift: list[float] = field(default_factory=list)  # of the chosen, contacted or held out, mean by round
    opt_outs: int = 0
    decisions: int = 0
    broken_rules: list[str] = field(default_factory=list)
    suppressed: dict[str, int] = field(default_factory=dict)
    weekly_users: int = 0  # users with a visit, summed over the weeks after the rounds
    active_visits: float = 0.0  # events after the first round, per user who was active before it
    intervals: list[Interval] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Way:
    """`policy` is a policy file; empty is the one shipped."""

    choose: Callable[[Stage, Turn], Round] | None
    policy: str = ""


WAYS: Final = {
    LONGTAIL: Way(choose=longtail_chooses),
    RELEVANCE: Way(choose=relevance_chooses, policy=RELEVANCE_ONLY),
    POPULARITY: Way(choose=popularity_chooses, policy=RELEVANCE_ONLY),
    NOBODY: Way(choose=None),
}


def run(
    settings: TrialSettings,
    *,
    seed: int,
    now: datetime,
    directory: Path,
    models: Path,
    model_server: str,
    ways: Sequence[str] = tuple(WAYS),
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Lived]:
    """Lives each of the ways, LONGTAIL first; `models` are the published ones. Raises SimulationError."""
    world = World(settings.world, seed=seed, start=first_midnight(now, settings.days + 1))
    base = StateDir(directory / "base")
    shutil.rmtree(directory, ignore_errors=True)
    prepare(base, world, world.live(settings.world.past_days), seed=seed)
    if models.exists():
        shutil.copytree(models, base.models)
    lived: dict[str, Lived] = {}
    for name in ways:
        say(f"seed {seed}: {name}")
        budget = lived[LONGTAIL].contacts if name in RIVALS else [settings.contacts] * settings.rounds
        turns = [
            Turn(number=number, contacts=contacts, holdout=settings.holdout, seed=seed)
            for number, contacts in enumerate(budget)
        ]
        state = copy_of(base, directory / name.replace(" ", "-"))
        lived[name] = _live(
            WAYS[name], turns, world=copy.deepcopy(world), state=state, model_server=model_server, seed=seed
        )
    shutil.rmtree(directory)
    return lived


def _live(way: Way, turns: Sequence[Turn], *, world: World, state: StateDir, model_server: str, seed: int) -> Lived:
    lived, active = Lived(), _active_users(state)
    if way.choose is None:
        for _ in turns:
            _week(lived, world, active)
        return lived
    evenings = []
    with open_stage(state, model_server=model_server, policy=way.policy) as stage:
        for turn in turns:
            moment = world.evening(world.day)
            stage.at(moment)
            if turn.number:
                stage.nightly(moment)
            made = way.choose(stage, turn)
            stage.record(_evening(lived, world, made, seed=seed, number=turn.number))
            evenings.append((moment.timestamp(), made.chosen))
            acts = _week(lived, world, active)
            stage.at(world.evening(world.day))
            stage.record([event_of(act, seed=seed, number=f"{turn.number}-{n}") for n, act in enumerate(acts)])
    lived.broken_rules = _broken_rules(evenings, world)
    if way.choose is longtail_chooses:
        lived.intervals = _intervals(state, turns, lived.lift)
    return lived


def _evening(lived: Lived, world: World, made: Round, *, seed: int, number: int) -> list[feedback_pb2.Event]:
    """Contacts those chosen; gives the events that a sender would record."""
    lived.decisions += made.decisions
    lived.suppressed = dict(Counter(lived.suppressed) + Counter(made.suppressed))
    held_out = [one for one in made.chosen if not one.is_contacted]
    contacted = [one for one in made.chosen if one.is_contacted]
    spared = world.truth(_users(held_out), [one.items for one in held_out])
    reached = world.contact(_users(contacted), [one.items for one in contacted])
    lived.contacts.append(len(contacted))
    lived.incremental += float(reached.lift.sum())
    lived.lift.append(float(np.concatenate([spared.lift, reached.lift]).mean()) if made.chosen else 0.0)
    lived.opt_outs += int(reached.opted_out.sum())
    at = world.evening(world.day)
    events = []
    for one, opts_out in zip(contacted, reached.opted_out, strict=True):
        kinds = [("contact", None), *(("exposure", item) for item in one.items), *[("opt_out", None)] * int(opts_out)]
        for place, (kind, item) in enumerate(kinds):
            act = Act(user=one.user, item=item, event_type=kind, at=at)
            name = f"{number}-{one.user}-{place}"
            events.append(event_of(act, seed=seed, number=name, decision_id=one.decision_id, surface=CHANNEL))
    return events


def _week(lived: Lived, world: World, active: set[int]) -> list[Act]:
    acts = world.live(HORIZON_DAYS)
    lived.weekly_users += len({act.user for act in acts})
    lived.active_visits += sum(act.user in active for act in acts) / max(len(active), 1)
    return acts


def _active_users(state: StateDir) -> set[int]:
    table = pq.read_table(state.features / "user_activity.parquet", columns=["user_id", "state"])
    return {number_of(row["user_id"]) for row in table.to_pylist() if row["state"] == Lifecycle.ACTIVE}


def _users(chosen: Sequence[Chosen]) -> np.ndarray:
    return np.array([one.user for one in chosen], np.int64)


def _broken_rules(evenings: Sequence[tuple[float, Sequence[Chosen]]], world: World) -> list[str]:
    sent = [
        Sent(user=one.user, channel=CHANNEL, at_unix_s=at, state=_state(one.state))
        for at, chosen in evenings
        for one in chosen
        if one.is_contacted
    ]
    return violations(sent, world.opted_out_unix_s, Policy())


def _state(number: int) -> Lifecycle:
    return Lifecycle(pb.Lifecycle.Name(number).removeprefix("LIFECYCLE_").lower())  # type: ignore[arg-type]


def _intervals(state: StateDir, turns: Sequence[Turn], lift: Sequence[float]) -> list[Interval]:
    """What `longtail report activation` says of each campaign, beside the truth."""
    report = report_of(
        decisions.read(state.decisions),
        read_events(state.events),
        Visits(read_user_days(state.events)),
        weights={},
        window_days=HORIZON_DAYS,
        confidence=CONFIDENCE,
    )
    found = []
    for turn, truth in zip(turns, lift, strict=True):
        told = report["groups"][f"campaign {turn.campaign}"]["all"]
        effect = told["effect"]
        found.append(Interval(low=effect["low"], high=effect["high"], truth=truth, verdict=told["verdict"]))
    return found
