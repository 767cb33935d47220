"""The papers of a release: the gate's verdict and the model card, or a refusal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from feature_repo.errors import LongtailError
from training.export import serving_contract
from training.release.gate import Verdict
from training.release.model_card import model_card

RELEASE: Final = "release.json"
MODEL_CARD: Final = "model_card.md"


def papers(
    exported: Path, report: Mapping[str, Any] | None, verdict: Verdict, *, override: str | None, now: datetime
) -> dict[str, str]:
    """What goes beside the model, name → text. Raises LongtailError when the gate refuses and nobody overrides it."""
    if override is not None and not override.strip():
        raise LongtailError("--override is empty; give the reason, such as --override 'the old model is withdrawn'")
    if not verdict.passes and override is None:
        raise LongtailError(f"{_refusal(verdict)}; train a better one, or publish with --override 'REASON'")
    overridden = override if not verdict.passes else None
    record = verdict.as_json() | {"override": overridden, "released_at": now.isoformat()}
    written = {RELEASE: json.dumps(record, indent=2)}
    if report is not None:
        contract = serving_contract.read_contract(exported)
        written[MODEL_CARD] = model_card(report, contract, verdict, override=overridden)
    return written


def _refusal(verdict: Verdict) -> str:
    if verdict.trouble:
        return f"version {verdict.candidate} could not be compared with {verdict.incumbent}: {verdict.trouble}"
    worse = ", ".join(
        f"{segment.name} by {-segment.difference:.4f} ± {segment.error:.4f}" for segment in verdict.regressions
    )
    return f"version {verdict.candidate} ranks worse than {verdict.incumbent} for {worse} (NDCG@10)"
