"""An answer → its line in the decision log: all that a replay, off-policy evaluation and an auditor need."""

from __future__ import annotations

import math
from typing import Any

import numpy.typing as npt

from feature_repo.decisions.lines import to_line
from serving.gateway.domain import Query, RankedItem, Ranking, Scored


def encode(query: Query, ranking: Ranking) -> bytes:
    """One line of `feature_repo.decisions.lines`."""
    scored = ranking.scored
    return to_line(
        _facts(query, ranking),
        items=_columns(ranking.items),
        item_ids=scored.candidates.item_ids,
        sources=scored.candidates.sources,
        categories=scored.categories,
        category_names=scored.category_names,
        numbers=_numbers(scored),
    )


def _facts(query: Query, ranking: Ranking) -> dict[str, Any]:
    user, model = ranking.user, ranking.model
    return {
        "decision_id": ranking.decision_id,
        "at_unix_s": ranking.at_unix_s,
        "user_id": query.user_id,
        "unit": ranking.unit,
        "decision": ranking.verdict,
        "reason": ranking.reason,
        "campaign_id": query.campaign.campaign_id if query.campaign else "",
        "contact_propensity": ranking.contact_propensity,
        "state": user.state,
        "days_in_state": user.days_in_state,
        "p_alive": user.p_alive,
        "tail_percentile": user.tail_percentile,
        "history_length": len(user.history),
        "surface": query.surface,
        "channel": query.channel,
        "objective": query.objective,
        "limit": query.limit,
        "explores": ranking.explores,
        "policy_version": ranking.policy_version,
        "experiments": [
            {"layer": one.layer, "name": one.name, "arm": one.arm, "version": one.version}
            for one in ranking.experiments
        ],
        "model_name": model.name if model else None,
        "model_version": model.version if model else None,
        "dropped": ranking.dropped,
        "features": [
            {"group": group.name, "status": group.status, "age_s": group.age_s} for group in ranking.groups.values()
        ],
        "user_features": _user_features(query, ranking),
        "degraded": [f"{one.dependency}:{one.cause}" for one in ranking.degradations],
    }


def _user_features(query: Query, ranking: Ranking) -> list[float | None] | None:
    """Only what the store's rows alone gave, at the present: that can be compared with the event log."""
    if ranking.user_features is None or query.history is not None or query.now_unix_s is not None:
        return None
    numbers: list[float] = ranking.user_features.tolist()
    return [None if math.isnan(number) else number for number in numbers]


def _columns(items: tuple[RankedItem, ...]) -> dict[str, list[Any]]:
    """In the order of the ranks."""
    return {
        "item_id": [item.item_id for item in items],
        "score": [item.score for item in items],
        "value": [item.value for item in items],
        "propensity": [item.propensity for item in items],
        "source": [item.source for item in items],
        "is_exploration": [item.is_exploration for item in items],
    }


def _numbers(scored: Scored) -> dict[str, npt.NDArray[Any]]:
    """Columns that say nothing are left out."""
    numbers: dict[str, npt.NDArray[Any]] = {
        "score": scored.scores,
        "novelty": scored.novelty,
        "rate": scored.rates,
        "trials": scored.trials,
    }
    if scored.is_prior:
        numbers["relevance"] = scored.relevance
    if scored.exposures.any():
        numbers["exposures"] = scored.exposures
    return numbers
