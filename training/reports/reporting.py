"""From an evaluation to report.json, report.html and the recommendations themselves."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from training import artifact, workflow
from training.evaluation.assessment import MODEL, Assessment, report_of
from training.examples.split import Question, SplitName
from training.export.stored_tables import as_served
from training.fitting.progress import Progress
from training.fitting.runs import Run
from training.network.compression import Compression
from training.release.gate import INCUMBENT
from training.release.incumbent import Published
from training.reports import examination, report
from training.reports.examination import MakeScorer
from training.reports.report_examples import examples_of

PER_USER = "per_user.parquet"


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What `longtail evaluate` shows."""

    report: dict[str, Any]
    top: pd.DataFrame  # user_id, rank, item_id
    page: Path


def evaluate(
    run: Run,
    folder: Path,
    *,
    split: SplitName,
    k: int,
    resume: bool,
    progress: Progress,
    published: Published | None = None,
) -> Evaluation:
    """Measures and writes; the leave-one-out report lies in a folder of its own, so that the primary one stays.

    The temporal split asks `published`, the version in service, the same question; the release gate reads both.
    """
    compared: dict[str, Any] = {}
    if split == "temporal":
        model = as_served(artifact.load(folder / workflow.MODEL_FOLDER), run.settings.compression)
        also: dict[str, MakeScorer] = {}
        if published is not None and published.version != model.version:
            trouble = published.trouble(cut_us=model.window_us[1])
            compared = {"version": published.version, "trouble": trouble}
            also = {} if trouble else {INCUMBENT: published.scorer}
        question, assessment = examination.evaluate(run, model, k=k, also=also)
        curve, best_epoch, version, out = model.curve, model.best_epoch, model.version, folder
        tried, teacher, settings = model.settings.get("configurations_tried", 1), model.teacher, model.settings
    else:
        question, assessment, learnt = examination.evaluate_leave_one_out(
            run, folder / "checkpoints", resume=resume, progress=progress, k=k
        )
        curve, best_epoch, version = learnt.curve, learnt.best_epoch, 0
        out, tried, teacher = folder / "leave-one-out", run.settings.configurations_tried, None
        settings = run.settings.model_dump(mode="json")
    fit = question.fit
    described = {
        "split": split,
        "version": version,
        "compression": run.settings.compression if split == "temporal" else "none",
        "training_window": {"start": examination.iso(int(fit.time_us.min())), "end": examination.iso(question.cut_us)},
        "counts": {
            "engagements": len(fit),
            "users": len(set(fit.user.tolist())),
            "items": len(assessment.known_items),
        },
        "curve": curve,
        "best_epoch": best_epoch,
        "configurations_tried": tried,
        "teacher": teacher,
        "dormant_after_days": run.settings.dormant_after_days,
        "returning_after_days": run.settings.returning_after_days,
        "settings": settings,
        INCUMBENT: compared,
        "examples": examples_of(run, question, assessment),
    } | report_of(assessment)
    _, page = report.write(described, out)
    per_user_frame(run, question, assessment).to_parquet(out / PER_USER, index=False)
    return Evaluation(report=described, top=examination.top_frame(run, question, assessment), page=page)


def per_user_frame(run: Run, question: Question, assessment: Assessment) -> pd.DataFrame:
    """The model's metrics of each user asked, and the slices the user is in: what two models are compared by."""
    users = run.log.user_ids[question.moments.user].astype(str)
    slices = {f"in: {name}": is_in for name, is_in in assessment.slices.items()}
    return pd.DataFrame({"user_id": users, **assessment.answers[MODEL].per_user, **slices})


def last_report(folder: Path, version: int) -> dict[str, Any] | None:
    """The report of a version; None when that version was not the last to be evaluated."""
    try:
        described: dict[str, Any] = json.loads((folder / "report.json").read_text())
    except (OSError, ValueError):
        return None
    return described if described.get("version") == version else None


def metrics_of(folder: Path, version: int, compression: Compression) -> dict[str, Any]:
    """The model's own metrics by slice for its contract; empty when this version was not evaluated, compressed so."""
    described = last_report(folder, version)
    if described is None or described.get("compression", "none") != compression:
        return {}
    return {
        name: {"users": values["users"]}
        | {
            metric: value["mean"] if isinstance(value, dict) else value
            for metric, value in values["scorers"][MODEL].items()
        }
        for name, values in described["slices"].items()
    }
