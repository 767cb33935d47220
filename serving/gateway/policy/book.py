"""The policy as data: `policy.toml`, validated, versioned by its content, reloadable while serving."""

from __future__ import annotations

import logging
import os
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from feature_repo.errors import LongtailError
from serving.gateway.policy.document import Policy, version_of
from serving.gateway.policy.experiments import changed_experiments, variant

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

SHIPPED: Final = Path(__file__).with_name("policy.toml")

_log = logging.getLogger(__name__)


def parse(text: str, *, where: str) -> Policy:
    """Raises LongtailError that names every key that is unknown or out of its range, in each arm too."""
    try:
        document = tomllib.loads(text)
        if not document:  # half of a save, or of a disk that is full: it would be the shipped policy, and decide
            raise LongtailError(f"{where} says nothing; name what is not as shipped, or unset gateway.policy_path")
        policy = Policy.model_validate(document)
    except tomllib.TOMLDecodeError as error:
        raise LongtailError(f"{where} is not valid TOML: {error}") from error
    except ValidationError as error:
        raise LongtailError(f"{where}: {_problems(error)}; {SHIPPED.name} in the package shows every key") from error
    for layer in policy.layers:
        for experiment in layer.experiments:
            for arm in experiment.arms:
                try:
                    variant(policy, [arm])
                except ValidationError as error:
                    at = f"{where}: layers.{layer.name}, experiment {experiment.name}, arm {arm.name}"
                    raise LongtailError(f"{at}: {_problems(error)}") from error
    return policy


def _problems(error: ValidationError) -> str:
    """A list is not called too short for entries that are themselves wrong."""
    problems = error.errors()
    places = [problem["loc"] for problem in problems]
    return "; ".join(
        _problem(problem)
        for problem in problems
        if not (
            problem["type"] == "too_short"
            and any(place != problem["loc"] and place[: len(problem["loc"])] == problem["loc"] for place in places)
        )
    )


def _problem(problem: ErrorDetails) -> str:
    where = ".".join(str(part) for part in problem["loc"]) or "the policy"
    if problem["type"] == "value_error":
        return f"{where}: {problem['msg'].removeprefix('Value error, ')}"
    if problem["type"] == "missing":
        return f"{where} is missing"
    return f"{where} = {problem.get('input')!r}: " + (
        "unknown key" if problem["type"] == "extra_forbidden" else problem["msg"]
    )


def from_archive(archive: Path, version: str) -> Policy:
    """The policy of that version as it decided. Raises LongtailError when it was not kept.

    The hash is of the text: an older longtail's has fewer keys, and what it leaves out has the meaning of then.
    """
    path = archive / f"{version.rpartition('@')[2]}.json"
    try:
        text = path.read_text(encoding="utf-8")
        policy = Policy.model_validate_json(text)
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise LongtailError(f"the policy {version} is not kept as {path}: {error}") from error
    if (found := version_of(policy.name, text)) != version:
        raise LongtailError(f"{path} is the policy {found}, not {version}: it was changed after it decided")
    return policy


class PolicyBook:
    """The policy in force. `reload` keeps the last good one and logs what was wrong with the new.

    Each is kept in `archive` before it decides, so that its decisions can be replayed. `in_force` is a file that the
    workers of one gateway share: one that starts while the policy's file is broken decides as the others do.
    """

    def __init__(self, path: Path | None = None, *, archive: Path | None = None, in_force: Path | None = None) -> None:
        self._path = path or SHIPPED
        self._archive = archive
        self._in_force = in_force
        self._seen = _stamp(self._path)
        try:
            self.policy = parse(_read(self._path), where=str(self._path))
        except LongtailError as error:
            policy = self._of_other_workers()
            if policy is None:
                raise
            _log.error("policy not loaded, %s is in force as in the other workers: %s", policy.version, error)
            self.policy = policy
        self._keep()

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
            for name in changed_experiments(self.policy, policy):
                _log.warning("experiment %s changed while running: its users before and after do not compare", name)
            self.policy = policy
            self._keep()
        return changed

    def _of_other_workers(self) -> Policy | None:
        """None where none is ready yet, and where they are of another longtail, whose policy this one cannot read."""
        try:
            return Policy.model_validate_json(self._in_force.read_text(encoding="utf-8")) if self._in_force else None
        except (OSError, ValidationError):
            return None

    def _keep(self) -> None:
        try:
            if self._archive is not None:
                path = self._archive / f"{self.policy.version.rpartition('@')[2]}.json"
                if not path.exists():
                    self._archive.mkdir(parents=True, exist_ok=True)
                    _write(path, self.policy)
            if self._in_force is not None:
                _write(self._in_force, self.policy)
        except OSError as error:
            _log.error("policy %s decides and is not kept: %s", self.policy.version, error)

    def reload_if_touched(self) -> bool:
        return _stamp(self._path) != self._seen and self.reload()


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size


def _write(path: Path, policy: Policy) -> None:
    """Whole or not at all, for whoever reads it."""
    draft = path.with_suffix(f".{os.getpid()}.draft")
    draft.write_text(policy.model_dump_json(), encoding="utf-8")
    draft.replace(path)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LongtailError(f"the policy {path} cannot be read: {error}; set gateway.policy_path to a file") from error
