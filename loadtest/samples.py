"""What is known of each request once it ended, and its file."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

OK: Final = "OK"
NOT_SENT: Final = "NOT_SENT"  # due, but no caller was free before the run ended
REJECTED: Final = "REJECTED"  # RecordEvents answered, and took not every event
COLUMNS: Final = ("due_s", "rpc", "user_kind", "state", "code", "degraded", "response_ms", "service_ms", "stages_us")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One request. Without an answer there is no state, and the times say when it was given up."""

    due_s: float  # since the run began
    rpc: str  # RankItems, GetUserState or RecordEvents; empty when NOT_SENT
    user_kind: str  # head, tail or unseen; empty when NOT_SENT
    state: str  # as answered: new, active, ...; empty when the answer has none
    code: str  # the gRPC code, NOT_SENT or REJECTED
    degraded: bool
    response_ms: float  # from when it was due
    service_ms: float  # from when it was sent
    stages_us: dict[str, int] = field(default_factory=dict)  # the answer's own timings

    @property
    def name(self) -> str:
        """Such as RankItems[dormant]."""
        return f"{self.rpc}[{self.state}]" if self.state else self.rpc


def write(path: Path, samples: Iterable[Sample]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for sample in samples:
            writer.writerow(
                (
                    f"{sample.due_s:.6f}",
                    sample.rpc,
                    sample.user_kind,
                    sample.state,
                    sample.code,
                    int(sample.degraded),
                    f"{sample.response_ms:.4f}",
                    f"{sample.service_ms:.4f}",
                    json.dumps(sample.stages_us) if sample.stages_us else "",
                )
            )


def read(path: Path) -> list[Sample]:
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Sample(
                due_s=float(row["due_s"]),
                rpc=row["rpc"],
                user_kind=row["user_kind"],
                state=row["state"],
                code=row["code"],
                degraded=row["degraded"] == "1",
                response_ms=float(row["response_ms"]),
                service_ms=float(row["service_ms"]),
                stages_us=json.loads(row["stages_us"] or "{}"),
            )
            for row in csv.DictReader(file)
        ]
