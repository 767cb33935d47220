"""Who is held out, and who is in which arm of which experiment: stateless hashes of user and salt; pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from serving.gateway.domain import Campaign, Experiment, UserId
from serving.gateway.policy.checks import merged
from serving.gateway.policy.document import ArmSection, ExperimentSection, HoldoutSection, LayerSection, Policy
from serving.gateway.policy.draws import uniform

GLOBAL_HOLDOUT = "global_holdout"
CAMPAIGN_HOLDOUT = "campaign_holdout"


@dataclass(frozen=True, kw_only=True, slots=True)
class Assignment:
    """What decides for this user; `policy` has the arms' changes in it."""

    is_held_out: bool
    experiments: tuple[Experiment, ...]
    policy: Policy


def assign(policy: Policy, user_id: UserId) -> Assignment:
    """An anonymous user is in no experiment and never held out: nobody could tell what came of it."""
    if not user_id:
        return Assignment(is_held_out=False, experiments=(), policy=policy)
    found = [chosen for layer in policy.layers if (chosen := _in_layer(layer, user_id)) is not None]
    return Assignment(
        is_held_out=is_held_out(policy.holdout, user_id),
        experiments=tuple(experiment for experiment, _ in found),
        policy=variant(policy, [arm for _, arm in found]),
    )


def is_held_out(holdout: HoldoutSection, user_id: str) -> bool:
    if user_id in holdout.always:
        return True
    return user_id not in holdout.never and uniform("holdout", holdout.salt, user_id) < holdout.rate


def in_campaign_holdout(campaign: Campaign, user_id: str) -> bool:
    return uniform("campaign", campaign.campaign_id, user_id) < campaign.holdout_rate


def contact_propensity(policy: Policy, campaign: Campaign | None, user_id: str) -> float:
    """Probability, over the draws of both holdouts, that this user is in none of them."""
    if not user_id:
        return 1.0
    return (1 - policy.holdout.rate) * (1 - (campaign.holdout_rate if campaign else 0.0))


def variant(policy: Policy, arms: Sequence[ArmSection]) -> Policy:
    """The policy with the arms' changes. Raises pydantic's ValidationError for a change that is wrong."""
    changes = [arm for arm in arms if arm.policy]
    if not changes:
        return policy
    key = tuple(repr(arm.policy) for arm in changes)
    if key not in policy.variants:
        document = policy.model_dump(mode="json", exclude={"layers"})
        for arm in changes:
            document = merged(document, arm.policy)
        policy.variants[key] = Policy.model_validate(document)
    return policy.variants[key]


def replayed(policy: Policy, experiments: Sequence[Experiment]) -> Policy:
    """The variant that decided for a user who was in these arms."""
    arms = {(one.name, arm.name): arm for layer in policy.layers for one in layer.experiments for arm in one.arms}
    return variant(policy, [arms[experiment.name, experiment.arm] for experiment in experiments])


def changed_experiments(before: Policy, after: Policy) -> list[str]:
    """Experiments that are in both policies and do not assign or do the same."""
    old, new = _versions(before), _versions(after)
    return [name for name in old if name in new and old[name] != new[name]]


def _versions(policy: Policy) -> dict[str, str]:
    return {
        experiment.name: _version(layer, experiment, start)
        for layer in policy.layers
        for experiment, start in _starts(layer)
    }


def _in_layer(layer: LayerSection, user_id: str) -> tuple[Experiment, ArmSection] | None:
    place = uniform("layer", layer.salt, user_id)
    for experiment, start in _starts(layer):
        for arm in experiment.arms:
            if user_id in arm.always:
                return _named(layer, experiment, arm, start), arm
    for experiment, start in _starts(layer):
        if start <= place < start + experiment.share:
            arm = _arm(layer, experiment, user_id)
            return _named(layer, experiment, arm, start), arm
    return None


def _starts(layer: LayerSection) -> list[tuple[ExperimentSection, float]]:
    """Each experiment with where its part of the layer's users begins."""
    starts, start = [], 0.0
    for experiment in layer.experiments:
        starts.append((experiment, start))
        start += experiment.share
    return starts


def _arm(layer: LayerSection, experiment: ExperimentSection, user_id: str) -> ArmSection:
    place = uniform("arm", layer.salt, experiment.name, user_id) * sum(arm.weight for arm in experiment.arms)
    for arm in experiment.arms:
        place -= arm.weight
        if place < 0:
            return arm
    return experiment.arms[-1]


def _named(layer: LayerSection, experiment: ExperimentSection, arm: ArmSection, start: float) -> Experiment:
    return Experiment(layer=layer.name, name=experiment.name, arm=arm.name, version=_version(layer, experiment, start))


def _version(layer: LayerSection, experiment: ExperimentSection, start: float) -> str:
    """A hash of all that decides who is in which arm and what the arms do; users named for tests do not count."""
    said = experiment.model_dump_json(exclude={"arms": {"__all__": {"always"}}})
    return hashlib.sha256(f"{layer.name}\n{layer.salt}\n{start}\n{said}".encode()).hexdigest()[:12]
