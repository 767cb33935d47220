"""What a contact changes: meta-learners over scikit-learn's trees, for trials whose propensities are known.

- T (two models): τ = μ1(x) − μ0(x).
- X (Künzel, Sekhon, Bickel and Yu 2019): what each arm's users gained over the other arm's model, weighed by e.
- DR (Kennedy 2023): a regression of ψ = μ1 − μ0 + w (y − μ1)/e − (1 − w)(y − μ0)/(1 − e).

Every effect of a user that is judged comes from models that have not seen that user.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from training.returns.examples import Floats
from training.returns.model import learnable
from training.returns.trials import Trials

FOLDS: Final = 5

Effect = Callable[[Floats], Floats]  # features [users, FEATURES] → effect [users]
Learner = Callable[[Trials, int], Effect]


@dataclass(frozen=True, kw_only=True)
class Judgeable:
    """Of each trial, by models of other users: the effect by each learner, and ψ, whose mean is the mean effect."""

    effects: dict[str, Floats]
    gain: Floats  # ψ


def t_learner(trials: Trials, seed: int) -> Effect:
    treated, held_out = _response_models(trials, seed)
    return lambda features: treated(features) - held_out(features)


def x_learner(trials: Trials, seed: int) -> Effect:
    treated, held_out = _response_models(trials, seed)
    w, share = trials.is_treated, float(trials.propensity.mean())
    of_treated = _regression(trials.features[w], trials.came[w] - held_out(trials.features[w]), seed)
    of_held_out = _regression(trials.features[~w], treated(trials.features[~w]) - trials.came[~w], seed)
    return lambda features: share * of_held_out(features) + (1.0 - share) * of_treated(features)


def dr_learner(trials: Trials, seed: int) -> Effect:
    gain = np.empty(len(trials))
    for inside, outside in folds(trials.user_id, seed + 1, count=2):
        gain[outside] = doubly_robust(_part(trials, outside), *_response_models(_part(trials, inside), seed))
    return _regression(trials.features, gain, seed)


LEARNERS: Final[dict[str, Learner]] = {"t_learner": t_learner, "x_learner": x_learner, "dr_learner": dr_learner}


def cross_fitted(trials: Trials, *, seed: int = 0) -> Judgeable:
    """Every learner, fold by fold."""
    effects = {name: np.empty(len(trials)) for name in LEARNERS}
    gain = np.empty(len(trials))
    for inside, outside in folds(trials.user_id, seed):
        known, judged = _part(trials, inside), _part(trials, outside)
        for name, learner in LEARNERS.items():
            effects[name][outside] = learner(known, seed)(judged.features)
        gain[outside] = doubly_robust(judged, *_response_models(known, seed))
    return Judgeable(effects=effects, gain=gain)


def doubly_robust(trials: Trials, treated: Effect, held_out: Effect) -> Floats:
    """ψ: right in the mean whatever the models say, since the propensities are known. [trials]"""
    one, none = treated(trials.features), held_out(trials.features)
    w, e, y = trials.is_treated, trials.propensity, trials.came
    return np.asarray(one - none + np.where(w, (y - one) / e, -(y - none) / (1.0 - e)))


def folds(
    user_id: npt.NDArray[np.object_], seed: int, *, count: int = FOLDS
) -> list[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]:
    """(inside, outside) of each fold; all trials of a user are in the same."""
    from sklearn.model_selection import GroupKFold

    rows = np.zeros((len(user_id), 1))
    splits = GroupKFold(n_splits=count, shuffle=True, random_state=seed).split(rows, groups=user_id.astype(str))
    return [(inside, outside) for inside, outside in splits]


def _response_models(trials: Trials, seed: int) -> tuple[Effect, Effect]:
    """P(came) if contacted, and if not."""
    w = trials.is_treated
    return (
        _classifier(trials.features[w], trials.came[w], seed),
        _classifier(trials.features[~w], trials.came[~w], seed),
    )


def _classifier(features: Floats, came: Floats, seed: int) -> Effect:
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = HistGradientBoostingClassifier(**_small_trees(len(came), seed)).fit(learnable(features), came.astype(int))
    return lambda features: np.asarray(model.predict_proba(features)[:, 1])


def _regression(features: Floats, target: Floats, seed: int) -> Effect:
    from sklearn.ensemble import HistGradientBoostingRegressor

    model = HistGradientBoostingRegressor(**_small_trees(len(target), seed)).fit(learnable(features), target)
    return lambda features: np.asarray(model.predict(features))


def _small_trees(rows: int, seed: int) -> dict[str, Any]:
    """An effect is a small difference of noisy outcomes: few, shallow trees with many users to a leaf."""
    leaf = max(20, rows // 20)
    return {
        "max_iter": 50,
        "learning_rate": 0.05,
        "max_leaf_nodes": 4,
        "min_samples_leaf": leaf,
        "l2_regularization": 10,
        "random_state": seed,
    }


def _part(trials: Trials, rows: npt.NDArray[np.intp]) -> Trials:
    return Trials(
        user_id=trials.user_id[rows],
        features=trials.features[rows],
        is_treated=trials.is_treated[rows],
        propensity=trials.propensity[rows],
        came=trials.came[rows],
    )
