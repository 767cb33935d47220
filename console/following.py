"""New decisions, as the gateway on this machine writes them to its log."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from console.tables import Line
from feature_repo.decisions.records import OPEN_SUFFIX, decode

BEFORE_BYTES: Final = 256 * 1024  # of what was decided before the page was opened


class Following:
    """Reads on where it stopped, in the segments that are being written. Raises DecisionLogReadError."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._read: dict[Path, int] = {}  # bytes

    def new(self) -> list[Line]:
        """One line a decision, the newest first."""
        found = [line for path in sorted(self._directory.glob(f"*{OPEN_SUFFIX}")) for line in self._of(path)]
        return [_line(one) for one in sorted(found, key=lambda one: float(one["at_unix_s"]), reverse=True)]

    def _of(self, path: Path) -> list[dict[str, Any]]:
        try:
            with path.open("rb") as file:
                size = file.seek(0, 2)
                start = self._read.get(path, max(0, size - BEFORE_BYTES))
                is_inside = path not in self._read and start > 0
                file.seek(start)
                data = file.read(size - start)
        except FileNotFoundError:  # closed, or replaced to erase a user
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._read[path] = start + len(whole)
        lines = whole.splitlines()[1 if is_inside else 0 :]
        rows: list[dict[str, Any]] = decode(lines, where=path).to_pylist()
        return rows


def _line(decision: dict[str, Any]) -> Line:
    shown = ", ".join(item["item_id"] for item in decision["items"][:3])
    more = len(decision["items"]) - 3
    reason = f": {decision['reason']}" if decision["reason"] else ""
    return {
        "time": datetime.fromtimestamp(decision["at_unix_s"], UTC).strftime("%H:%M:%S"),
        "decision": decision["decision_id"],
        "user": decision["user_id"] or "anonymous",
        "state": decision["state"],
        "verdict": decision["decision"] + reason,
        "items": shown + (f" and {more} more" if more > 0 else ""),
        "surface": decision["surface"],
        "model": decision["model_version"] or "none",
        "degraded": ", ".join(decision["degraded"]),
    }
