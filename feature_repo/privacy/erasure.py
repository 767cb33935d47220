"""The right to be forgotten: removes one user from everything that longtail keeps, and proves it.

A place that holds a user's data is a `Holder`; `erasers` has those of the state directory and the online store. Who
adds a place adds its holder.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from feature_repo.errors import LongtailError
from feature_repo.events import MAX_ID_BYTES
from feature_repo.layout import StateDir
from feature_repo.log.importing import one_import
from feature_repo.log.tombstones import Tombstones
from feature_repo.online.loading import one_at_a_time
from feature_repo.privacy.erasers import Holder, known_holders
from feature_repo.settings import FeatureSettings
from feature_repo.tables.build import one_build

_SETTLE_S: Final = 0.3  # a worker that had just read the user writes within it
_LOOKS: Final = 3


class ErasureError(LongtailError):
    """A user could not be removed everywhere. Doing it again is safe."""


@dataclass(frozen=True, kw_only=True)
class Removal:
    """`count` rows, lines or values."""

    holder: str
    part: str
    count: int


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What was removed where. `user` is a digest: a report that names the user would keep what was to go."""

    user: str
    at: str
    removed: tuple[Removal, ...]
    verified: Mapping[str, bool]  # a second look found nothing
    kept: tuple[str, ...]  # what stays by design
    file: str

    @property
    def is_complete(self) -> bool:
        return all(self.verified.values())


KEPT: Final = (
    "counts of items and the model's shared weights, which name nobody; the next build and training lack the user",
    "files outside the state directory, such as the log that was imported and backups",
)


def erase_user(
    state: StateDir,
    settings: FeatureSettings,
    user_id: str,
    *,
    now: datetime,
    holders: Sequence[Holder] = (),
) -> Proof:
    """Removes the user, looks again, and writes the proof to `erasures/`. `holders` come after those known here.

    Raises ErasureError when something could not be removed, FeatureStoreError while a materialization is at work,
    DataError while an import, a pruning or a build is.
    """
    if not 1 <= len(user_id.encode()) <= MAX_ID_BYTES:
        raise ErasureError(f"user_id has {len(user_id.encode())} bytes; give 1 to {MAX_ID_BYTES}")
    every = [*known_holders(state, settings), *holders]
    with one_import(state), one_at_a_time(state), one_build(state):
        digest = Tombstones(state.events).add(user_id, at=now)  # first: nothing comes in behind us
        removed = [removal for holder in every for removal in _erase(holder, user_id)]
        came_back = _came_back(every, user_id)
    file = state.root / "erasures" / f"{now.strftime('%Y%m%dT%H%M%S%f')}.json"
    proof = Proof(
        user=digest,
        at=now.isoformat(),
        removed=tuple(removed),
        verified={holder.name: holder.name not in came_back for holder in every},
        kept=KEPT,
        file=str(file),
    )
    _write(proof, file)
    if not proof.is_complete:
        raise ErasureError(f"the user came back while being erased; run it again. {file} says where")
    return proof


def _came_back(holders: Sequence[Holder], user_id: str) -> set[str]:
    """The places that had the user again on the last look. What was under way may bring a row once."""
    found: set[str] = set()
    for _ in range(_LOOKS):
        time.sleep(_SETTLE_S)
        found = {holder.name for holder in holders if any(removal.count for removal in _erase(holder, user_id))}
        if not found:
            break
    return found


def _erase(holder: Holder, user_id: str) -> list[Removal]:
    try:
        removed = holder.erase(user_id)
    except (OSError, LongtailError) as error:
        raise ErasureError(f"{holder.name}: {error}. The user is not erased everywhere; run it again") from error
    return [Removal(holder=holder.name, part=part, count=count) for part, count in removed.items()]


def _write(proof: Proof, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f".{file.name}.unfinished")
    unfinished.write_text(json.dumps(asdict(proof), indent=2) + "\n")
    unfinished.replace(file)
