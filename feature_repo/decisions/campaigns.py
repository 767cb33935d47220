"""Campaigns: who was chosen to be contacted, in a SQLite file, so that nobody is chosen twice.

A campaign is its id and its parameters; of a list of users only a fingerprint stays. What was decided of a user stays
as the bytes that were answered. Other campaigns ask here for contacts that events do not tell yet.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from feature_repo.errors import LongtailError

CONTACTED: Final = "contact"
WOULD_CONTACT: Final = "would_contact"  # but for the permanent holdout
HELD_OUT: Final = "hold_out"
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS campaigns (
    campaign_id TEXT PRIMARY KEY, parameters TEXT NOT NULL, started_unix_s REAL NOT NULL, is_finished INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS decided (
    campaign_id TEXT NOT NULL, place INTEGER NOT NULL, user_id TEXT NOT NULL, outcome TEXT NOT NULL,
    channel TEXT NOT NULL, cost REAL NOT NULL, at_unix_s REAL NOT NULL, answer BLOB NOT NULL,
    PRIMARY KEY (campaign_id, place)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS decided_user ON decided (user_id);
"""
_USERS_A_QUERY: Final = 500


class CampaignError(LongtailError):
    """The campaigns cannot be read or written."""


class CampaignChangedError(CampaignError):
    """A campaign of this id was started with other parameters."""


class CampaignBusyError(CampaignError):
    """Another call selects for this campaign."""


@dataclass(frozen=True, kw_only=True)
class Decided:
    """What was decided of one user; `answer` are the bytes that were answered."""

    user_id: str
    outcome: str  # CONTACTED, WOULD_CONTACT, HELD_OUT or "suppressed"
    channel: str
    cost: float
    at_unix_s: float
    answer: bytes


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a campaign is."""

    is_finished: bool
    chosen: int  # contacted or held out
    cost: float  # of those
    user_ids: frozenset[str]  # everyone decided


class Campaigns:
    """All campaigns of one installation. Calls block; one thread at a time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._path = directory / "campaigns.db"
        with self._connected() as con:
            con.execute("PRAGMA journal_mode = WAL")
            con.executescript(_SCHEMA)

    @contextmanager
    def alone(self, campaign_id: str) -> Iterator[None]:
        """Raises CampaignBusyError while another call is inside, of this process or another."""
        name = hashlib.sha256(campaign_id.encode()).hexdigest()[:32]
        with (self._directory / f"{name}.lock").open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise CampaignBusyError(f"the campaign {campaign_id!r} is being selected by another call") from None
            yield

    @contextmanager
    def choosing(self) -> Iterator[None]:
        """Waits until no other process is between asking for `contacts` and adding its own."""
        with (self._directory / "choosing.lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def start(self, campaign_id: str, parameters: Mapping[str, str], *, now_unix_s: float) -> Progress:
        """Starts it, or finds how far it came. Raises CampaignChangedError that names what is not the same."""
        with self._connected() as con:
            row = con.execute("SELECT parameters FROM campaigns WHERE campaign_id = ?", (campaign_id,)).fetchone()
            if row is None:
                values = (campaign_id, json.dumps(dict(parameters)), now_unix_s)
                con.execute("INSERT INTO campaigns VALUES (?, ?, ?, 0)", values)
            elif changed := _changed(json.loads(row[0]), parameters):
                raise CampaignChangedError(
                    f"the campaign {campaign_id!r} was started with other parameters: {changed}; give those, or "
                    "another campaign_id"
                )
            return _progress(con, campaign_id)

    def answers(self, campaign_id: str, *, first: int, count: int) -> list[tuple[int, bytes]]:
        """What was answered, in that order, with its place, from place `first` on; the erased leave gaps."""
        with self._connected() as con:
            rows = con.execute(
                "SELECT place, answer FROM decided WHERE campaign_id = ? AND place >= ? ORDER BY place LIMIT ?",
                (campaign_id, first, count),
            )
            return list(rows)

    def add(self, campaign_id: str, decided: Sequence[Decided]) -> None:
        """On disk when it returns, all or none."""
        with self._connected() as con:
            (place,) = con.execute(
                "SELECT COALESCE(MAX(place), -1) + 1 FROM decided WHERE campaign_id = ?", (campaign_id,)
            ).fetchone()
            rows = [
                (campaign_id, place + step, one.user_id, one.outcome, one.channel, one.cost, one.at_unix_s, one.answer)
                for step, one in enumerate(decided)
            ]
            con.executemany("INSERT INTO decided VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def finish(self, campaign_id: str) -> None:
        with self._connected() as con:
            con.execute("UPDATE campaigns SET is_finished = 1 WHERE campaign_id = ?", (campaign_id,))

    def contacts(self, user_ids: Sequence[str], *, since_unix_s: float) -> dict[str, list[tuple[str, float]]]:
        """Of each user the (channel, unix_s) that any campaign chose, or would have but for the permanent holdout."""
        found: dict[str, list[tuple[str, float]]] = {}
        with self._connected() as con:
            for start in range(0, len(user_ids), _USERS_A_QUERY):
                asked = user_ids[start : start + _USERS_A_QUERY]
                marks = ",".join("?" * len(asked))
                rows = con.execute(
                    "SELECT user_id, channel, at_unix_s FROM decided "  # noqa: S608
                    f"WHERE user_id IN ({marks}) AND outcome IN (?, ?) AND at_unix_s >= ?",
                    (*asked, CONTACTED, WOULD_CONTACT, since_unix_s),
                )
                for user_id, channel, at in rows:
                    found.setdefault(user_id, []).append((channel, at))
        return found

    def erase(self, user_id: str) -> int:
        """The rows removed."""
        with self._connected() as con:
            return con.execute("DELETE FROM decided WHERE user_id = ?", (user_id,)).rowcount

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """One transaction, durable when it ends."""
        try:
            con = sqlite3.connect(self._path, timeout=30)
            try:
                con.execute("PRAGMA synchronous = FULL")
                con.execute("PRAGMA secure_delete = ON")
                with con:
                    yield con
            finally:
                con.close()
        except sqlite3.Error as error:
            raise CampaignError(f"the campaigns in {self._path} cannot be used: {error}") from error


def _progress(con: sqlite3.Connection, campaign_id: str) -> Progress:
    (is_finished,) = con.execute("SELECT is_finished FROM campaigns WHERE campaign_id = ?", (campaign_id,)).fetchone()
    chosen, cost, users = 0, 0.0, []
    rows = con.execute("SELECT user_id, outcome, cost FROM decided WHERE campaign_id = ?", (campaign_id,))
    for user_id, outcome, spent in rows:
        users.append(user_id)
        chosen += outcome != "suppressed"
        cost += spent
    return Progress(is_finished=bool(is_finished), chosen=chosen, cost=cost, user_ids=frozenset(users))


def _changed(then: Mapping[str, str], now: Mapping[str, str]) -> str:
    names = [name for name in sorted({*then, *now}) if then.get(name) != now.get(name)]
    return ", ".join(f"{name} was {then.get(name) or 'unset'}, is {now.get(name) or 'unset'}" for name in names)
