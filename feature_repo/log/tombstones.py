"""Who was erased, and when: so that a late duplicate or an import of the same log does not bring them back.

The file holds no ids but digests with a salt of this installation. An event of an erased user that is later than the
erasure is taken: a person may come back.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

_SALT_BYTES: Final = 32


class Tombstones:
    """One file beside the event log; read again when it changed."""

    def __init__(self, events: Path) -> None:
        self._file = events / "erased.jsonl"
        self._seen: tuple[int, int] = (0, 0)
        self._erased: dict[str, datetime] = {}
        self._salt = ""

    def add(self, user_id: str, *, at: datetime) -> str:
        """Durable when it returns; the digest that names the user in reports."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._refresh()
        salt = self._salt or secrets.token_hex(_SALT_BYTES)
        digest = digest_of(user_id, salt)
        lines = [] if self._salt else [{"salt": salt}]
        lines.append({"user": digest, "at": at.isoformat()})
        with os.fdopen(os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "w") as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())
        return digest

    def cover(self, user_id: str, event_time: datetime) -> bool:
        """Whether such an event must not be taken."""
        self._refresh()
        if not self._erased:
            return False
        at = self._erased.get(digest_of(user_id, self._salt))
        return at is not None and event_time <= at

    def condition(self, user: str, time: str) -> str:
        """`cover` in DuckDB's SQL, of two columns; an event without a time is covered."""
        self._refresh()
        if not self._erased:
            return "false"
        digest = f"sha256('{self._salt}' || {user})"
        known = ", ".join(f"('{each}', TIMESTAMPTZ '{at.isoformat()}')" for each, at in self._erased.items())
        rows = f"(VALUES {known}) AS erased(digest, erased_at)"
        return f"EXISTS (SELECT 1 FROM {rows} WHERE digest = {digest} AND ({time} IS NULL OR {time} <= erased_at))"  # noqa: S608

    def _refresh(self) -> None:
        try:
            stat = self._file.stat()
        except FileNotFoundError:
            return
        if (stat.st_mtime_ns, stat.st_size) == self._seen:
            return
        self._seen = (stat.st_mtime_ns, stat.st_size)
        for line in self._file.read_text().splitlines():
            entry = json.loads(line)
            if "salt" in entry:
                self._salt = entry["salt"]
            else:
                at = datetime.fromisoformat(entry["at"]).astimezone(UTC)
                self._erased[entry["user"]] = max(at, self._erased.get(entry["user"], at))


def digest_of(user_id: str, salt: str) -> str:
    """SHA-256 of salt and id: what DuckDB's sha256 gives of both."""
    return hashlib.sha256((salt + user_id).encode()).hexdigest()
