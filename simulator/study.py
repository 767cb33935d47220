"""Many seeds: the trials, kept on disk one by one, so that a run that was broken off goes on where it stopped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from feature_repo.layout import StateDir
from simulator import trial
from simulator.stage import longtail, open_model_server, prepare
from simulator.trial import LONGTAIL, WAYS, Interval, Lived, TrialSettings
from simulator.world import World, first_midnight

MODEL_SEED: Final = 0  # the world that the model learns from; no trial lives in it
MODEL_USERS: Final = 4000
NULL_SEEDS_FROM: Final = 10_001
TRAINING: Final = {"LONGTAIL_TRAINING__EMBEDDING_SIZE": "32", "LONGTAIL_TRAINING__MAX_EPOCHS": "4"}

Say = Callable[[str], None]
Trials = dict[int, dict[str, Lived]]  # by seed and way


@dataclass(frozen=True, kw_only=True)
class Plan:
    """`null_seeds` are of worlds in which a contact does nothing: there only longtail is tried, for its reports."""

    trial: TrialSettings = field(default_factory=TrialSettings)
    seeds: int = 20
    null_seeds: int = 20

    @property
    def null(self) -> TrialSettings:
        return replace(self.trial, world=replace(self.trial.world, effect=0.0))

    def trials(self) -> Iterator[tuple[int, TrialSettings, Sequence[str]]]:
        for seed in range(1, self.seeds + 1):
            yield seed, self.trial, tuple(WAYS)
        for seed in range(NULL_SEEDS_FROM, NULL_SEEDS_FROM + self.null_seeds):
            yield seed, self.null, (LONGTAIL,)


def run(plan: Plan, *, now: datetime, directory: Path, say: Say) -> tuple[Trials, Trials]:
    """The trials with an effect, and those without. What is finished in `directory` is kept. Raises SimulationError."""
    home = StateDir(directory / "model")
    train_model(plan.trial, now=now, state=home, say=say)
    kept = Kept(directory / "trials.jsonl")
    lived: Trials = {}
    with open_model_server(home) as address:
        for seed, settings, ways in plan.trials():
            found = kept.find(seed, settings)
            if found is None:
                found = trial.run(
                    settings,
                    seed=seed,
                    now=now,
                    directory=directory / "trial",
                    models=home.models,
                    model_server=address,
                    ways=ways,
                    say=say,
                )
                kept.add(seed, settings, found)
            lived[seed] = found
    is_null = {seed: seed >= NULL_SEEDS_FROM for seed in lived}
    return (
        {seed: found for seed, found in lived.items() if not is_null[seed]},
        {seed: found for seed, found in lived.items() if is_null[seed]},
    )


def train_model(settings: TrialSettings, *, now: datetime, state: StateDir, say: Say) -> None:
    """The product's own commands on a world's past: other users, the same catalogue."""
    if any(state.models.glob("[0-9]*")):
        say(f"the model in {state.root} is kept; remove it to train anew")
        return
    shutil.rmtree(state.root, ignore_errors=True)
    of = replace(settings.world, users=MODEL_USERS)
    world = World(of, seed=MODEL_SEED, start=first_midnight(now, settings.days + 1))
    prepare(state, world, world.live(of.past_days), seed=MODEL_SEED)
    for command in ("train", "evaluate", "export", "publish"):
        say(f"model: {command}")
        longtail(state, command, environ=TRAINING)


class Kept:
    """Finished trials, one JSON line each."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def find(self, seed: int, settings: TrialSettings) -> dict[str, Lived] | None:
        """With the same seed and settings, or None."""
        lines = self._file.read_text("utf-8").splitlines() if self._file.exists() else []
        for line in map(json.loads, lines):
            if line["seed"] == seed and line["settings"] == asdict(settings):
                return {name: _lived(values) for name, values in line["lived"].items()}
        return None

    def add(self, seed: int, settings: TrialSettings, lived: dict[str, Lived]) -> None:
        values = {name: asdict(one) for name, one in lived.items()}
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"seed": seed, "settings": asdict(settings), "lived": values}) + "\n")


def _lived(values: dict[str, Any]) -> Lived:
    return Lived(**{**values, "intervals": [Interval(**one) for one in values["intervals"]]})
