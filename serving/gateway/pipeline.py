"""The request, top to bottom: features → candidates → eligibility → score → policy → decision log."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import replace

import numpy as np

from serving.gateway.candidates import gather
from serving.gateway.course import Course
from serving.gateway.deadline import Deadline, Stage
from serving.gateway.domain import Candidate, FeatureGroups, ModelUser, Priority, Query, Ranking, Source
from serving.gateway.eligibility import divide
from serving.gateway.errors import Cause, DecisionLogError, FeaturesError, ModelError
from serving.gateway.item_table import ItemTable
from serving.gateway.policy_book import Policy
from serving.gateway.ports import Ports
from serving.gateway.slate import Scored, fill
from serving.gateway.user import describe, feature_groups, model_user


async def rank(query: Query, *, ports: Ports, policy: Policy, now_unix_s: float, deadline: Deadline) -> Ranking:
    """Ranks for one user. A dependency's failure degrades the answer; raises only RefusalError."""
    course = Course(deadline, require_full=query.require_full)
    table = ports.catalog.items

    with course.stage(Stage.FEATURES) as timeout_s:
        groups = await read_features(query, ports, course, now_unix_s=now_unix_s, timeout_s=timeout_s)
        user, activity = describe(query, groups, now_unix_s=now_unix_s, lifecycle=ports.lifecycle)
        inputs = model_user(user, activity, groups, now_unix_s=now_unix_s)
        prior = policy.prior(user.state)

    with course.stage(Stage.CANDIDATES) as timeout_s:
        candidates, failure = await gather(query, inputs, table, ports, fallback=prior, timeout_s=timeout_s)
        if failure is not None:
            course.degrade(failure)
        seen = {behavior.item_id for behavior in user.history}
        eligible = divide(candidates, seen=seen, excluded=query.exclude_item_ids, items=table)

    with course.stage(Stage.SCORE) as timeout_s:
        is_low = query.priority is Priority.BATCH
        scored = await score(
            eligible.kept, inputs, table, ports, course, prior=prior, timeout_s=timeout_s, is_low=is_low
        )

    with course.stage(Stage.POLICY):
        items, unranked = fill(scored, query=query, user=user, policy=policy, now_unix_s=now_unix_s)
        ranking = Ranking(
            decision_id=ports.new_decision_id(query),
            at_unix_s=now_unix_s,
            user=user,
            items=items,
            groups=groups,
            model=scored.model,
            policy_version=policy.version,
            experiment=policy.arm,
            dropped=Counter(eligible.dropped) + Counter(unranked),
            degradations=course.degradations,
        )

    with course.stage(Stage.DECISION_LOG) as timeout_s:
        try:
            await ports.decisions.record(query, ranking, timeout_s=timeout_s)
        except DecisionLogError as error:
            # Nothing random is shown without its propensity on record.
            course.degrade(error)
            items, _ = fill(scored, query=query, user=user, policy=policy, now_unix_s=now_unix_s, explores=False)
            ranking = replace(ranking, items=items, degradations=course.degradations)
            if error.cause is Cause.TIMEOUT:  # its line may come yet; the one after it says what was answered
                with suppress(DecisionLogError):
                    await ports.decisions.record(query, ranking, timeout_s=0)

    return replace(ranking, degradations=course.degradations, timings_us=course.timings_us())


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
    candidates: tuple[Candidate, ...],
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
    item_ids = [candidate.item_id for candidate in candidates]
    novelty = table.novelty_of(item_ids)
    if item_ids:
        try:
            scores = await ports.scorer.score(inputs, item_ids, timeout_s=timeout_s, is_low=is_low)
            relevance = scores.values.astype(np.float64)  # [candidates]
            return Scored(
                candidates=candidates, scores=scores.values, relevance=relevance, novelty=novelty, model=scores.model
            )
        except ModelError as error:
            course.degrade(error)
    zeros = np.zeros(len(item_ids), np.float32)  # [candidates]
    relevance = table.prior(prior, item_ids)
    return Scored(candidates=candidates, scores=zeros, relevance=relevance, novelty=novelty, model=None)
