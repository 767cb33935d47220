"""`train-returns`: which moments, what is compared on the latest, what becomes the view `user_returns`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

import numpy as np

from feature_repo.errors import LongtailError
from training.returns import measures, targeting, uplift
from training.returns.examples import Examples, Floats, ReturnsReader, moments
from training.returns.model import ReturnModel, fit
from training.returns.trials import Trials

BGNBD: Final = "bgnbd"
RETURN_MODEL: Final = "return_model"
UPLIFT_MODEL: Final = "uplift_model"
MOMENTS: Final = 12
ERROR_RATE: Final = 0.05  # of all learners' intervals together
LEAST_EACH: Final = 20  # users who came, and who did not, in what a model is fitted to or judged on


class ReturnsError(LongtailError):
    """The log cannot teach who returns."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Probabilities of every user at the log's end, the basis that was released, and why."""

    as_of: datetime
    horizon_days: float
    basis: str
    now: Examples
    p_return: Floats  # [users], without a contact
    report: dict[str, Any]
    p_return_contacted: Floats | None = None  # [users]; None until an uplift model was released


def train(reader: ReturnsReader, *, horizon_days: float, as_of: datetime | None = None, seed: int = 0) -> Trained:
    """Judged at the latest moment with a label, learnt from earlier ones whose horizon had ended by then.

    The model is released when its log loss there is below BG/NBD's by over two standard errors; then it learns from
    every moment. Otherwise BG/NBD stays.
    """
    first, last = reader.span()
    if first is None:
        raise ReturnsError("the event log is empty; fill it with `longtail data import`")
    end = min(last + timedelta(microseconds=1), as_of) if as_of is not None else last + timedelta(microseconds=1)
    if end <= first:
        raise ReturnsError(f"--as-of {end.isoformat()} is not after the first event, of {first.isoformat()}")
    times = moments(first, end, horizon_days=horizon_days, most=MOMENTS)
    if not times:
        raise ReturnsError(
            f"the log spans {(end - first).days} days; --horizon-days {horizon_days:g} needs twice as many and a day"
        )
    by_moment = [_without_contacts(reader.at(at, horizon_days=horizon_days, until=end)) for at in times]
    now = reader.at(end, horizon_days=horizon_days, until=end)
    if not len(now):
        raise ReturnsError("nobody did anything: the event log has only what was shown, sent or opted; import events")
    judged_at = times[-1]
    horizon = timedelta(days=horizon_days)
    past = [one for at, one in zip(times, by_moment, strict=True) if at + horizon <= judged_at]
    verdict, model = _judge(past, by_moment[-1], seed=seed)
    report = {
        "as_of": end.isoformat(),
        "horizon_days": horizon_days,
        "judged_at": judged_at.isoformat(),
        "moments": [at.isoformat() for at in times],
        **verdict,
    }
    if model is None:
        if np.isnan(now.bgnbd).any():
            raise ReturnsError(f"{verdict['reason']}; and BG/NBD has no fit: too few users came on a second day")
        basis, p_return = BGNBD, now.bgnbd
    else:
        latest = fit(joined(by_moment), seed=seed)
        released = ReturnModel(trees=latest.trees, slope=model.slope, offset=model.offset)
        basis, p_return = RETURN_MODEL, released.predict(now.features)
    return Trained(
        as_of=end,
        horizon_days=horizon_days,
        basis=basis,
        now=now,
        p_return=p_return,
        report=report | {"basis": basis},
    )


def with_uplift(trained: Trained, trials: Trials, *, seed: int = 0) -> Trained:
    """Adds p(return | contact), when a learner orders users better than chance does.

    Released is the learner with the highest Qini of those whose interval is above 0; the level of the intervals allows
    for their number. Then it learns from all trials. Otherwise nothing is added, and the report says why.
    """
    report: dict[str, Any] = {"trials": len(trials), "contacted": int(trials.is_treated.sum())}
    report["not_due"] = trials.not_due
    reason = _too_few(trials)
    if reason:
        return replace(trained, report=trained.report | {"uplift": report | {"released": None, "reason": reason}})
    judgeable = uplift.cross_fitted(trials, seed=seed)
    level = 1.0 - ERROR_RATE / len(uplift.LEARNERS)
    judged = {
        name: targeting.judge(effect, judgeable.gain, trials.user_id, level=level, seed=seed)
        for name, effect in judgeable.effects.items()
    }
    mean = next(iter(judged.values())).mean_effect
    report |= {
        "level": level,
        "mean_effect": asdict(mean),
        "learners": {name: asdict(one) for name, one in judged.items()},
    }
    proven = [name for name, one in judged.items() if one.qini.low > 0]
    if not proven:
        reason = "no learner orders users better than chance; what a contact changes stays an assumption"
        return replace(trained, report=trained.report | {"uplift": report | {"released": None, "reason": reason}})
    best = max(proven, key=lambda name: judged[name].qini.value)
    effect = uplift.LEARNERS[best](trials, seed)(trained.now.features)
    reason = f"the {best} has the highest Qini of {len(proven)} whose interval is above 0"
    return replace(
        trained,
        basis=UPLIFT_MODEL,
        p_return_contacted=np.clip(trained.p_return + effect, 0.0, 1.0),
        report=trained.report | {"basis": UPLIFT_MODEL, "uplift": report | {"released": best, "reason": reason}},
    )


def _too_few(trials: Trials) -> str:
    """Why nothing can be learnt; empty when something can."""
    if not len(trials):
        return "the decision log has no campaign with a holdout whose horizon has ended"
    for arm, rows in (("contacted", trials.is_treated), ("held out", ~trials.is_treated)):
        came = int(trials.came[rows].sum())
        if min(came, int(rows.sum()) - came) < LEAST_EACH:
            return (
                f"of {int(rows.sum())} users {arm}, {came} came back; {LEAST_EACH} who did and {LEAST_EACH} who did "
                "not are needed"
            )
    return ""


def _judge(past: list[Examples], judged: Examples, *, seed: int) -> tuple[dict[str, Any], ReturnModel | None]:
    """The comparison, and the model when it is released."""
    if len(past) < 2 or not all(map(_is_enough, (joined(past), judged))):
        return {
            "reason": "the log is too short to fit a model and judge it later; BG/NBD stands in",
            "judged": None,
        }, None
    model = fit(joined(past[:-1]), seed=seed).calibrated(past[-1]) if len(past) > 2 else fit(joined(past), seed=seed)
    predicted = model.predict(judged.features)
    scores = {RETURN_MODEL: predicted}
    if not np.isnan(judged.bgnbd).any():
        scores[BGNBD] = judged.bgnbd
    found: dict[str, Any] = {name: _measures(judged.came, score) for name, score in scores.items()}
    if BGNBD not in scores:
        return {"reason": "BG/NBD has no fit on these data", "judged": found, "users": len(judged)}, model
    gain = measures.log_losses(judged.came, judged.bgnbd) - measures.log_losses(judged.came, predicted)
    error = float(gain.std(ddof=1) / np.sqrt(len(gain)))
    found["log_loss_gain"] = {"mean": float(gain.mean()), "standard_error": error}
    found["auc_gain"] = {
        "mean": found[RETURN_MODEL]["auc"] - found[BGNBD]["auc"],
        "standard_error": measures.auc_error(judged.came, predicted, judged.bgnbd),
    }
    is_better = gain.mean() > 2 * error
    word = "is better than" if is_better else "cannot be told from, or is worse than,"
    verdict = {"reason": f"the return model {word} BG/NBD in log loss", "judged": found, "users": len(judged)}
    return verdict, model if is_better else None


def _measures(came: Floats, score: Floats) -> dict[str, float | None]:
    return {
        "auc": measures.auc(came, score),
        "log_loss": float(measures.log_losses(came, score).mean()),
        "brier": measures.brier(came, score),
        "calibration_error": measures.calibration_error(came, score),
        "mean": float(score.mean()),
        "share_came": float(came.mean()),
    }


def _without_contacts(examples: Examples) -> Examples:
    """What a user did after a contact says nothing of what they do without."""
    return examples.where(~examples.contacted)


def _is_enough(examples: Examples) -> bool:
    came = int((examples.came > 0).sum())
    return min(came, len(examples) - came) >= LEAST_EACH


def joined(parts: list[Examples]) -> Examples:
    names = Examples.__dataclass_fields__
    return Examples(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})
