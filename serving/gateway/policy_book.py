"""The policy as data: `policy.toml`, validated, versioned by its content, reloadable while serving."""

from __future__ import annotations

import hashlib
import logging
import tomllib
from functools import cached_property
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from feature_repo.errors import LongtailError
from feature_repo.lifecycle import Lifecycle
from serving.gateway.domain import Experiment, Objective, Source

SHIPPED: Final = Path(__file__).with_name("policy.toml")

_log = logging.getLogger(__name__)


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ExperimentSection(_Section):
    name: str = Field("activation", min_length=1, max_length=64)
    arm: str = Field("default", min_length=1, max_length=64)


class ExplorationSection(_Section):
    slots: int = Field(2, ge=0, le=20)
    pool: int = Field(50, ge=1, le=1000)


class ObjectiveSection(_Section):
    """Exponents of the terms."""

    relevance: float = Field(ge=0, le=10)
    novelty: float = Field(ge=0, le=10)


class Objectives(_Section):
    activate: ObjectiveSection = ObjectiveSection(relevance=1.0, novelty=0.5)
    retain: ObjectiveSection = ObjectiveSection(relevance=1.0, novelty=0.1)
    explore: ObjectiveSection = ObjectiveSection(relevance=1.0, novelty=0.05)


class StateSection(_Section):
    """What AUTO means in this state, how much to explore, and what serves when the model does not."""

    objective: Literal["activate", "retain", "explore"]
    exploration_rate: float = Field(ge=0, le=0.5)
    relevance_floor: float = Field(0.0, ge=0, lt=1)
    prior: Literal["popular", "fresh"] = "popular"


class States(_Section):
    new: StateSection = StateSection(objective="explore", exploration_rate=0.2)
    active: StateSection = StateSection(objective="retain", exploration_rate=0.05, prior="fresh")
    casual: StateSection = StateSection(objective="activate", exploration_rate=0.1)
    at_risk: StateSection = StateSection(objective="activate", exploration_rate=0.05)
    dormant: StateSection = StateSection(objective="activate", exploration_rate=0.05)
    resurrected: StateSection = StateSection(objective="retain", exploration_rate=0.1)


class Policy(_Section):
    """One version of the policy; the defaults are those shipped."""

    name: str = Field("first-activation", min_length=1, max_length=64)
    experiment: ExperimentSection = ExperimentSection()
    exploration: ExplorationSection = ExplorationSection()
    objectives: Objectives = Objectives()
    states: States = States()

    @cached_property
    def version(self) -> str:
        """The name and a hash of all that it says."""
        return f"{self.name}@{hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]}"

    @cached_property
    def arm(self) -> Experiment:
        return Experiment(name=self.experiment.name, arm=self.experiment.arm)

    def state(self, state: Lifecycle) -> StateSection:
        section: StateSection = getattr(self.states, state.value)
        return section

    def objective(self, wanted: Objective, state: Lifecycle) -> ObjectiveSection:
        name = self.state(state).objective if wanted is Objective.AUTO else wanted.value
        section: ObjectiveSection = getattr(self.objectives, name)
        return section

    def prior(self, state: Lifecycle) -> Source:
        return Source(self.state(state).prior)


def parse(text: str, *, where: str) -> Policy:
    """Raises LongtailError that names every key that is unknown or out of its range."""
    try:
        return Policy.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise LongtailError(f"{where} is not valid TOML: {error}") from error
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc'])} = {problem.get('input')!r}: "
            + ("unknown key" if problem["type"] == "extra_forbidden" else problem["msg"])
            for problem in error.errors()
        )
        raise LongtailError(f"{where}: {problems}; {SHIPPED.name} in the package shows every key") from error


class PolicyBook:
    """The policy in force. `reload` keeps the last good one and logs what was wrong with the new."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or SHIPPED
        self._seen = _stamp(self._path)
        self.policy = parse(_read(self._path), where=str(self._path))

    def reload(self) -> bool:
        """True when another policy is in force now."""
        self._seen = _stamp(self._path)
        try:
            policy = parse(_read(self._path), where=str(self._path))
        except LongtailError as error:
            _log.error("policy not reloaded, %s stays in force: %s", self.policy.version, error)
            return False
        changed = policy != self.policy
        if changed:
            _log.info("policy %s replaces %s", policy.version, self.policy.version)
            self.policy = policy
        return changed

    def reload_if_touched(self) -> bool:
        return _stamp(self._path) != self._seen and self.reload()


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LongtailError(f"the policy {path} cannot be read: {error}; set gateway.policy_path to a file") from error
