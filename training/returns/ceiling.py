"""How much better than BG/NBD any model of this log could be: what one learns that looks where no product can.

    python -m training.returns.ceiling EVENTS --as-of 1998-01-31 [--horizon-days 30]

At the moment that `train-returns` judges at, AUC beside BG/NBD's of: the return model as it is; trees learnt from all
earlier moments; and trees learnt at that very moment from the returns of other users (ten folds of users). Each of the
two with the return model's features, and with many more of the same visits.
"""

from __future__ import annotations

import argparse
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from feature_repo.events import NOT_ACTIVITY
from feature_repo.lifecycle import DAY_S
from feature_repo.settings import FeatureSettings
from training.returns import measures
from training.returns.examples import Examples, Floats, ReturnsReader, moments, open_returns
from training.returns.model import fit, learnable
from training.returns.workflow import MOMENTS, joined

LAST_VISITS: Final = 5  # visits, from the last, whose age is a feature of its own
FADINGS_DAYS: Final = (7, 15, 30, 60, 120, 240)
FOLDS: Final = 10


def main() -> None:
    """Prints a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("events", type=Path, help="the event log's directory")
    parser.add_argument("--as-of", type=datetime.fromisoformat, help="the end of the log, UTC; default: all of it")
    parser.add_argument("--horizon-days", type=float, default=30.0)
    given = parser.parse_args()
    reader = open_returns(given.events, FeatureSettings())
    first, last = reader.span()
    end = last if given.as_of is None else given.as_of.replace(tzinfo=last.tzinfo)
    times = moments(first, end, horizon_days=given.horizon_days, most=MOMENTS)
    days = _days(reader)
    parts = [reader.at(at, horizon_days=given.horizon_days, until=end) for at in times]
    judged = parts[-1]
    horizon = timedelta(days=given.horizon_days)
    past = [part for at, part in zip(times, parts, strict=True) if at + horizon <= times[-1]]
    say(f"judged at {times[-1]:%Y-%m-%d}, {len(judged)} users, {judged.came.mean():.1%} came", judged, judged.bgnbd)
    say("the return model", judged, fit(joined(past[:-1])).calibrated(past[-1]).predict(judged.features))
    for name, of in (("", _own), (", more features", lambda part: _with_more(part, days))):
        learnt = fit(_replaced(joined(past), np.concatenate([of(part) for part in past])))
        say(f"earlier moments{name}", judged, learnt.predict(learnable(of(judged))))
        say(f"the same moment, other users{name}", judged, _cross_fitted(judged, of(judged)))


def say(name: str, judged: Examples, score: Floats) -> None:
    auc, bgnbd = measures.auc(judged.came, score) or 0.0, measures.auc(judged.came, judged.bgnbd) or 0.0
    error = measures.auc_error(judged.came, score, judged.bgnbd) or 0.0
    sys.stdout.write(f"{name:50s} AUC {auc:.4f}, {auc - bgnbd:+.4f} ± {error:.4f}\n")
    sys.stdout.flush()


def _cross_fitted(judged: Examples, features: Floats) -> Floats:
    """Each user's score by trees that did not see them."""
    score = np.zeros(len(judged))
    fold = np.random.default_rng(0).integers(FOLDS, size=len(judged))
    for number in range(FOLDS):
        learnt = fit(_replaced(judged, features).where(fold != number))
        score[fold == number] = learnt.predict(learnable(features[fold == number]))
    return score


def _replaced(examples: Examples, features: Floats) -> Examples:
    return Examples(
        **{name: getattr(examples, name) for name in examples.__dataclass_fields__} | {"features": features}
    )


def _own(part: Examples) -> Floats:
    return part.features


def _days(reader: ReturnsReader) -> pd.DataFrame:
    """Days with a visit, by user: when, after how many days, and the sum of values."""
    acts = reader.events.filter(reader.events.event_type.notin(NOT_ACTIVITY))
    frame = reader.con.to_pyarrow(acts.select("user_id", "event_time", "value")).to_pandas()
    frame["day"] = frame["event_time"].dt.floor("D")
    days: pd.DataFrame = frame.groupby(["user_id", "day"], as_index=False).agg(
        value=("value", "sum"), acts=("value", "size")
    )
    days["gap"] = days.groupby("user_id")["day"].diff().dt.total_seconds() / DAY_S
    return days


def _with_more(part: Examples, days: pd.DataFrame) -> Floats:
    """Ages of the last visits and gaps, their regularity, fading counts and values."""
    as_of = pd.Timestamp(part.as_of[0], tz="UTC")
    known = days[days["day"] < as_of.floor("D")].copy()
    known["age"] = (as_of - known["day"]).dt.total_seconds() / DAY_S
    known["log_gap"], known["log_value"] = np.log1p(known["gap"]), np.log1p(known["value"].clip(lower=0))
    by_user = known.groupby("user_id")
    known["back"] = by_user.cumcount(ascending=False)
    columns = [by_user[name].agg(["mean", "std", "min", "max", "first"]) for name in ("log_gap", "log_value", "acts")]
    for back in range(LAST_VISITS):
        columns.append(known[known["back"] == back].set_index("user_id")[["age", "gap", "log_value"]])
    for days_to_e in FADINGS_DAYS:
        faded = np.exp(-known["age"] / days_to_e)
        columns += [faded.groupby(known["user_id"]).sum(), (faded * known["log_value"]).groupby(known["user_id"]).sum()]
    more = pd.concat(columns, axis=1).reindex(part.user_id).to_numpy(np.float64)
    return np.column_stack([part.features, more])


if __name__ == "__main__":
    main()
