"""The request, top to bottom: features → candidates → eligibility → score → policy → decision log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

import numpy as np

from serving.gateway.candidates import gather
from serving.gateway.course import Course
from serving.gateway.deadline import Deadline, Stage
from serving.gateway.domain import (
    Candidates,
    FeatureGroups,
    ModelUser,
    Priority,
    Query,
    Ranking,
    Scored,
    Source,
    User,
    Verdict,
)
from serving.gateway.eligibility import divide
from serving.gateway.errors import Cause, DecisionLogError, FeaturesError, ModelError
from serving.gateway.features.item_table import ItemTable
from serving.gateway.policy.contact_rules import Contacts, refusal, with_chosen
from serving.gateway.policy.document import Policy
from serving.gateway.policy.experiments import (
    CAMPAIGN_HOLDOUT,
    GLOBAL_HOLDOUT,
    Assignment,
    assign,
    contact_propensity,
    in_campaign_holdout,
)
from serving.gateway.policy.slate import fill, seed_of, unit_of
from serving.gateway.ports import Ports
from serving.gateway.user import describe, exposures_in_vain, feature_groups, model_user


async def rank(query: Query, *, ports: Ports, policy: Policy, now_unix_s: float, deadline: Deadline) -> Ranking:
    """Ranks for one user. A dependency's failure degrades the answer; raises only RefusalError."""
    course = Course(deadline, require_full=query.require_full)
    table = ports.catalog.items
    assignment = assign(policy, query.user_id)
    decides = assignment.policy

    with course.stage(Stage.FEATURES) as timeout_s:
        groups = await read_features(query, ports, course, now_unix_s=now_unix_s, timeout_s=timeout_s)
        user, activity = describe(query, groups, now_unix_s=now_unix_s, lifecycle=ports.lifecycle)
        inputs = model_user(user, activity, groups, now_unix_s=now_unix_s)
        verdict, reason = judge(query, user, groups, assignment, now_unix_s=now_unix_s)
        state = decides.state(user.state)
        prior = decides.prior(user.state)

    with course.stage(Stage.CANDIDATES) as timeout_s:
        sources = [Source(source) for source in state.sources]
        candidates, failure = await gather(
            query, inputs, table, ports, sources=sources, fallback=prior, timeout_s=timeout_s
        )
        if failure is not None:
            course.degrade(failure)
        seen = {behavior.item_id for behavior in user.history}
        eligible = divide(candidates, seen=seen, excluded=query.exclude_item_ids, items=table)

    with course.stage(Stage.SCORE) as timeout_s:
        is_low = query.priority is Priority.BATCH
        scored = await score(
            eligible.kept, inputs, table, ports, course, prior=prior, timeout_s=timeout_s, is_low=is_low
        )
        in_vain = exposures_in_vain(groups, now_unix_s=now_unix_s, half_life_days=decides.fatigue.half_life_days)
        scored = with_exposures(scored, in_vain)

    with course.stage(Stage.POLICY):
        unit = unit_of(query)
        seed = seed_of(decides, assignment.experiments, unit, now_unix_s=now_unix_s)
        items, unranked = fill(scored, query=query, user=user, policy=decides, seed=seed)
        ranking = Ranking(
            decision_id=ports.new_decision_id(query),
            at_unix_s=now_unix_s,
            user=user,
            items=items,
            groups=groups,
            model=scored.model,
            policy_version=policy.version,
            experiments=assignment.experiments,
            dropped=Counter(eligible.dropped) + Counter(unranked),
            scored=scored,
            unit=unit,
            user_features=inputs.user_features,
            verdict=verdict,
            reason=reason,
            contact_propensity=contact_propensity(policy, query.campaign, query.user_id),
            degradations=course.degradations,
        )

    with course.stage(Stage.DECISION_LOG) as timeout_s:
        try:
            await ports.decisions.record(query, ranking, timeout_s=timeout_s)
        except DecisionLogError as error:
            # Nothing random is shown without its propensity on record.
            course.degrade(error)
            items, _ = fill(scored, query=query, user=user, policy=decides, seed=None)
            ranking = replace(ranking, items=items, explores=False, degradations=course.degradations)
            if error.cause is not Cause.QUEUE_FULL:  # after a timeout its line may come yet: the last one counts
                with suppress(DecisionLogError):
                    await ports.decisions.record(query, ranking, timeout_s=0)

    return replace(ranking, degradations=course.degradations, timings_us=course.timings_us())


def judge(
    query: Query, user: User, groups: FeatureGroups, assignment: Assignment, *, now_unix_s: float
) -> tuple[Verdict, str]:
    """SUPPRESSED before HOLD_OUT: who would not have been contacted is no control of those who were."""
    if query.channel in assignment.policy.channels:
        reason = refusal(
            query.channel,
            past_contacts(query, groups),
            state=user.state,
            days_in_state=user.days_in_state,
            policy=assignment.policy,
            now_unix_s=now_unix_s,
        )
        if reason:
            return Verdict.SUPPRESSED, reason
    if assignment.is_held_out:
        return Verdict.HOLD_OUT, GLOBAL_HOLDOUT
    if query.campaign is not None and in_campaign_holdout(query.campaign, query.user_id):
        return Verdict.HOLD_OUT, CAMPAIGN_HOLDOUT
    return Verdict.SHOW, ""


def past_contacts(query: Query, groups: FeatureGroups) -> list[Contacts]:
    """As recorded; and with what campaigns chose, of which the events may not have come back yet."""
    recorded = Contacts.of(groups["user_contacts"].values)
    return [recorded] if query.campaign is None else with_chosen(recorded, query.campaign.sent)


async def read_features(
    query: Query, ports: Ports, course: Course, *, now_unix_s: float, timeout_s: float
) -> FeatureGroups:
    """The user's rows; when the store fails, those remembered, else defaults."""
    if not query.user_id:
        return feature_groups({}, is_remembered=False, now_unix_s=now_unix_s)
    try:
        rows = await ports.features.read(query.user_id, timeout_s=timeout_s)
    except FeaturesError as error:
        course.degrade(error)
        return feature_groups(ports.memory.recall(query.user_id), is_remembered=True, now_unix_s=now_unix_s)
    ports.memory.remember(query.user_id, rows)
    return feature_groups(rows, is_remembered=False, now_unix_s=now_unix_s)


async def score(
    candidates: Candidates,
    inputs: ModelUser,
    table: ItemTable,
    ports: Ports,
    course: Course,
    *,
    prior: Source,
    timeout_s: float,
    is_low: bool,
) -> Scored:
    """The model's scores; when it fails, the prior that the state has."""
    item_ids = candidates.item_ids
    rows = table.rows(item_ids)
    scores, model = np.zeros(len(item_ids), np.float32), None  # [candidates]
    if item_ids:
        try:
            answer = await ports.scorer.score(inputs, item_ids, timeout_s=timeout_s, is_low=is_low)
            scores, model = answer.values, answer.model
        except ModelError as error:
            course.degrade(error)
    return Scored(
        candidates=candidates,
        scores=scores,
        relevance=table.prior(prior, item_ids) if model is None else scores.astype(np.float64),
        novelty=table.novelty[rows],
        exposures=np.zeros(len(item_ids)),
        categories=table.categories[rows],
        category_names=table.category_names,
        rates=table.rates[rows],
        trials=table.trials[rows],
        model=model,
    )


def with_exposures(scored: Scored, exposures: Mapping[str, float]) -> Scored:
    """What the user was shown in vain, at the log's precision."""
    if not exposures:
        return scored
    counts = [exposures.get(item_id, 0.0) for item_id in scored.candidates.item_ids]
    return replace(scored, exposures=np.asarray(counts, np.float32).astype(np.float64))
