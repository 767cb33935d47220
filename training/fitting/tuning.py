"""Searches the settings of training on validation with Optuna: what is tried next, what is given up, what is kept.

A trial is one configuration. Its score is the best validation NDCG@10 of its epochs; the test window is not looked at.
What is tried depends on the seed and on the trials before alone, so that a search that was interrupted goes on as if it
had not been.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from feature_repo.errors import LongtailError
from training.fitting.fitting import DivergedError
from training.fitting.progress import Epoch, Progress
from training.fitting.tuning_space import Choice, Dimension, Space
from training.release.retraining import alone
from training.settings import NOT_LEARNING, TrainingSettings

try:
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
    from optuna.trial import FrozenTrial, TrialState
    from sqlalchemy.exc import SQLAlchemyError
except ModuleNotFoundError as error:
    raise LongtailError("tuning needs Optuna: install `pip install 'longtail[tune]'`") from error

STUDY: Final = "study.sqlite"
PrunerName = Literal["median", "hyperband", "none"]
Outcome = Literal["finished", "given up", "diverged"]
Score = Callable[[TrainingSettings, Progress], float]
"""(settings, progress) → the best validation NDCG@10; calls progress.on_epoch after each epoch."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One configuration and what became of it."""

    number: int  # from 1
    varied: Mapping[str, Any]  # setting → value
    outcome: Outcome
    score: float | None  # None where no epoch was finished
    epochs: int


@dataclass(frozen=True, kw_only=True)
class Search:
    """What is searched, by what rules, and where it is remembered."""

    settings: TrainingSettings  # what is not varied, and the first to be tried
    space: Space
    folder: Path
    log: str  # fingerprint of what is learnt from: scores of another log cannot be compared
    seed: int = 0
    pruner: PrunerName = "median"


@dataclass(frozen=True, kw_only=True)
class Found:
    """The outcome of a search."""

    trials: list[Trial]
    best: Trial
    settings: TrainingSettings  # of the best trial, with the number of configurations tried


Shown = Callable[[int, Mapping[str, Any]], AbstractContextManager[Progress]]
"""(number of the trial, what is varied) → how it tells what it does."""


def _silent(number: int, varied: Mapping[str, Any]) -> AbstractContextManager[Progress]:
    return nullcontext(Progress())


def tune(
    search: Search,
    score: Score,
    *,
    trials: int,
    timeout_s: float | None = None,
    shown: Shown = _silent,
    on_trial: Callable[[Trial, Found | None], None] = lambda trial, found: None,
    clock_s: Callable[[], float] = time.monotonic,
) -> Found:
    """Tries configurations until so many were tried, those of an earlier run included, or no time is left to begin one.

    Raises LongtailError when none was finished.
    """
    until_s = float("inf") if timeout_s is None else clock_s() + timeout_s
    with _opened(search) as (study, others):
        while (tried := len(_tried(study))) < trials and clock_s() < until_s:
            study.sampler = optuna.samplers.TPESampler(seed=_seed(search.seed, tried))
            asked = study.ask(_distributions(search))
            with shown(tried + 1, asked.params) as progress:
                _try(study, asked, search, score, progress)
            on_trial(_as_trials(study)[-1], _found(study, search, others))
        found = _found(study, search, others)
    if found is None:
        raise LongtailError(
            f"no configuration of {len(_tried(study))} tried was finished; allow more --trials or a longer --timeout, "
            "or lower rates of learning in --space"
        )
    return found


@contextmanager
def _opened(search: Search) -> Iterator[tuple[Any, int]]:
    """The study of this search, and what others tried on this log. What a killed run was at is tried again."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = search.folder / STUDY
    with alone(search.folder, "tuning"):
        try:
            storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
            study = optuna.create_study(
                storage=storage,
                study_name=_name(search),
                direction="maximize",
                load_if_exists=True,
                pruner=_pruner(search),
            )
        except (SQLAlchemyError, RuntimeError) as error:
            raise LongtailError(f"{path} is no record of searches that can be read; move it away: {error}") from error
        if not study.trials:
            study.set_user_attr("log", search.log)
            study.enqueue_trial(_as_they_are(search))
        for left in study.get_trials(states=(TrialState.RUNNING,)):
            study.tell(left.number, state=TrialState.FAIL)
            study.enqueue_trial(left.params)
        yield study, _by_others(storage, search)


def _as_they_are(search: Search) -> dict[str, Any]:
    """The settings of today where the space has them: what comes out should not be worse."""
    today = {name: getattr(search.settings, name) for name in search.space}
    return {name: value for name, value in today.items() if search.space[name].has(value)}


def _name(search: Search) -> str:
    """Of all that makes scores comparable and trials repeatable; another has a study of its own in the same file."""
    settings = search.settings.model_dump(mode="json", exclude=set(NOT_LEARNING))
    space = {name: dimension.model_dump() for name, dimension in sorted(search.space.items())}
    text = json.dumps([search.log, settings, space, search.seed, search.pruner])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _pruner(search: Search) -> Any:
    if search.pruner == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=2)
    if search.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(max_resource=search.settings.max_epochs)
    return optuna.pruners.NopPruner()


def _seed(seed: int, tried: int) -> int:
    return int(np.random.SeedSequence([seed, tried]).generate_state(1)[0])


def _distributions(search: Search) -> dict[str, BaseDistribution]:
    return {name: _distribution(name, dimension) for name, dimension in search.space.items()}


def _distribution(name: str, dimension: Dimension) -> BaseDistribution:
    if isinstance(dimension, Choice):
        return CategoricalDistribution(dimension.choices)
    if TrainingSettings.model_fields[name].annotation is int:
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def _try(study: Any, asked: Any, search: Search, score: Score, progress: Progress) -> None:
    """One configuration: its score, or that it was given up or diverged."""

    def on_epoch(epoch: Epoch) -> None:
        progress.on_epoch(epoch)
        asked.report(epoch.validation_ndcg, epoch.epoch)
        if asked.should_prune():
            raise optuna.TrialPruned

    settings = TrainingSettings.model_validate(search.settings.model_dump() | asked.params)
    try:
        study.tell(asked, score(settings, replace(progress, on_epoch=on_epoch)))
    except optuna.TrialPruned:
        study.tell(asked, state=TrialState.PRUNED)
    except DivergedError as error:
        asked.set_user_attr("diverged", str(error))
        study.tell(asked, state=TrialState.FAIL)


def _tried(study: Any) -> list[FrozenTrial]:
    """Finished, given up or diverged; what was interrupted is tried again and does not count."""
    ended = study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL))
    return [one for one in ended if one.state != TrialState.FAIL or "diverged" in one.user_attrs]


def _as_trials(study: Any) -> list[Trial]:
    outcomes: dict[TrialState, Outcome] = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "given up"}
    return [
        Trial(
            number=number,
            varied=one.params,
            outcome=outcomes.get(one.state, "diverged"),
            score=one.value if one.value is not None else max(one.intermediate_values.values(), default=None),
            epochs=len(one.intermediate_values),
        )
        for number, one in enumerate(_tried(study), start=1)
    ]


def _found(study: Any, search: Search, others: int) -> Found | None:
    """None when no configuration was finished."""
    trials = _as_trials(study)
    finished = [trial for trial in trials if trial.outcome == "finished"]
    if not finished:
        return None
    best = max(finished, key=lambda trial: (trial.score or 0.0, -trial.number))
    compared = max(others + len(trials), search.settings.configurations_tried - 1 + len(trials))
    given = search.settings.model_dump() | dict(best.varied) | {"configurations_tried": compared}
    return Found(trials=trials, best=best, settings=TrainingSettings.model_validate(given))


def _by_others(storage: Any, search: Search) -> int:
    """Configurations that other searches tried on this log: the choice is made among them too."""
    summaries = optuna.get_all_study_summaries(storage)
    names = [one.study_name for one in summaries if one.user_attrs.get("log") == search.log]
    return sum(
        len(_tried(optuna.load_study(study_name=name, storage=storage))) for name in names if name != _name(search)
    )
