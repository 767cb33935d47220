"""The audit log: who used the scope `admin`, when, from where, for what, and how it ended. JSON lines, a file a day."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from serving.gateway.access.caller import Caller
from serving.gateway.errors import AuditError

MODE: Final = 0o600


class AuditLog:
    """`directory` None keeps none. A line is one write, so that several processes may share the file."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory

    def write(self, caller: Caller, *, act: str, peer: str, outcome: str, now: datetime) -> None:
        """Raises AuditError: what cannot be put on record is not done."""
        if self._directory is None:
            return
        line = {
            "at": now.astimezone(UTC).isoformat(timespec="milliseconds"),
            "caller": caller.name,
            "how": caller.how,
            "peer": peer,
            "act": act,
            "outcome": outcome,
        }
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            path = self._directory / f"{now.astimezone(UTC):%Y-%m-%d}.jsonl"
            file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, MODE)
            try:
                os.write(file, json.dumps(line, ensure_ascii=False).encode() + b"\n")
            finally:
                os.close(file)
        except OSError as error:
            raise AuditError(f"the audit log in {self._directory} cannot be written: {error.strerror}") from error
