"""The release gate: a model that serves any segment worse than the one in service does not replace it.

Both are asked the same test question in the same run (`longtail evaluate`). A segment regresses when the paired
difference of NDCG@10 per user lies below 0 by more than `errors` standard errors. No I/O here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from feature_repo.errors import LongtailError

INCUMBENT: Final = "incumbent"  # the scorer's name in report.json
SEGMENTS: Final = ("all", "tail", "thinnest")  # and every lifecycle state
STATE: Final = "state: "


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One segment's users: the candidate's NDCG@10 less the incumbent's, per user."""

    name: str
    users: int
    candidate: float
    incumbent: float
    difference: float
    error: float | None  # None for a single user, who proves nothing

    def regresses(self, errors: float) -> bool:
        return self.error is not None and self.difference + errors * self.error < 0


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the gate saw. Without an incumbent there is nothing to be worse than."""

    candidate: int
    incumbent: int | None
    errors: float
    segments: tuple[Segment, ...]
    trouble: str = ""  # why the two could not be compared

    @property
    def regressions(self) -> tuple[Segment, ...]:
        return tuple(segment for segment in self.segments if segment.regresses(self.errors))

    @property
    def passes(self) -> bool:
        return not self.regressions and not self.trouble

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {
            "passes": self.passes,
            "regressions": [segment.name for segment in self.regressions],
        }


def judge(
    report: Mapping[str, Any] | None, *, candidate: int, incumbent: int | None, errors: float, compression: str = "none"
) -> Verdict:
    """The verdict on a version as it was exported. Raises LongtailError when the report speaks of other models."""
    if incumbent is None:
        return Verdict(candidate=candidate, incumbent=None, errors=errors, segments=())
    if incumbent == candidate:
        raise LongtailError(
            f"version {candidate} is published already, and a version never changes: run `longtail train`, "
            "`longtail evaluate` and `longtail export` for a new one"
        )
    if report is None:
        raise LongtailError(
            f"version {candidate} was not evaluated, and {incumbent} is in service; run `longtail evaluate`, then "
            "publish again"
        )
    measured = report.get("compression", "none")
    if measured != compression:
        raise LongtailError(
            f"version {candidate} was evaluated with compression {measured} and exported with "
            f"{compression}; run `longtail evaluate --compress {compression}`, then publish again"
        )
    compared = report.get(INCUMBENT) or {}
    if compared.get("version") != incumbent:
        raise LongtailError(
            f"the report compares {candidate} with {compared.get('version') or 'no published model'}, but "
            f"{incumbent} is in service; run `longtail evaluate` again, then publish"
        )
    trouble = str(compared.get("trouble") or "")
    return Verdict(
        candidate=candidate,
        incumbent=incumbent,
        errors=errors,
        segments=() if trouble else _segments(report),
        trouble=trouble,
    )


def _segments(report: Mapping[str, Any]) -> tuple[Segment, ...]:
    return tuple(
        _segment(name, values)
        for name, values in report["slices"].items()
        if name in SEGMENTS or name.startswith(STATE)
    )


def _segment(name: str, values: Mapping[str, Any]) -> Segment:
    difference = values["ndcg_over"][INCUMBENT]
    return Segment(
        name=name.removeprefix(STATE),
        users=values["users"],
        candidate=values["scorers"]["longtail"]["ndcg"]["mean"],
        incumbent=values["scorers"][INCUMBENT]["ndcg"]["mean"],
        difference=difference["mean"],
        error=difference["error"],
    )
