"""What a policy can say: the sections of `policy.toml`, their ranges, and the coded defaults."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from feature_repo.lifecycle import Lifecycle
from serving.gateway.domain import Objective, Source
from serving.gateway.policy.checks import caps_contradiction, experiments_contradiction, overlap, repeated, spelled

DEFAULT_SOURCES: tuple[Literal["retrieval", "popular", "fresh"], ...] = ("retrieval", "popular", "fresh")


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _channel_name(name: str) -> str:
    if not 1 <= len(name.encode()) <= 64:
        raise ValueError(f"the channel {name!r} must have 1 to 64 bytes")
    return name


Name = Annotated[str, Field(min_length=1, max_length=64)]
ChannelName = Annotated[str, AfterValidator(_channel_name)]
Weight = Annotated[float, Field(ge=0, le=10)]
Cap = Annotated[int, Field(ge=0, le=1000)]
Rate = Annotated[float, Field(ge=0, le=1)]


class HoldoutSection(Section):
    """Users who never get what longtail would do, so that what it does can be measured."""

    rate: Rate = 0.02
    salt: Name = "global-holdout"
    always: tuple[str, ...] = ()  # user ids, for tests
    never: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        overlap("holdout.always and holdout.never", self.always, self.never)
        return self


class ArmSection(Section):
    """`policy` replaces keys of the policy for the users of this arm."""

    name: Name
    weight: Annotated[float, Field(gt=0, le=1000)] = 1.0
    policy: dict[str, object] = {}
    always: tuple[str, ...] = ()  # user ids, for tests


class ExperimentSection(Section):
    """`share` of the layer's users take part, and are spread over the arms by their weights."""

    name: Name
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    arms: tuple[ArmSection, ...] = Field(min_length=2)


class LayerSection(Section):
    """Experiments of one layer exclude each other; layers are independent."""

    name: Name
    salt: Name
    experiments: tuple[ExperimentSection, ...] = ()


class ExplorationSection(Section):
    salt: Name = "exploration"
    pool: int = Field(50, ge=1, le=1000)
    floor: Annotated[float, Field(gt=0, le=1)] = 0.2
    prior_trials: Annotated[float, Field(gt=0, le=1e6)] = 20.0


class FatigueSection(Section):
    half_life_days: Annotated[float, Field(gt=0, le=365)] = 7.0


class DiversitySection(Section):
    category_correlation: Annotated[float, Field(ge=0, lt=1)] = 0.5


class ObjectiveSection(Section):
    """Exponents of the terms, and the share of the list's places, the last, in which novelty counts."""

    relevance: Weight
    novelty: Weight
    novelty_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    fatigue: Weight = 1.0
    diversity: Weight = 0.0


class Objectives(Section):
    activate: ObjectiveSection = ObjectiveSection(relevance=1.0, novelty=1.0, novelty_share=0.5)
    retain: ObjectiveSection = ObjectiveSection(relevance=1.0, novelty=1.0, novelty_share=0.2)
    explore: ObjectiveSection = ObjectiveSection(relevance=1.0, novelty=1.0, novelty_share=0.3)


class Caps(Section):
    """How often a user may be contacted, over any so many days."""

    contacts_1d: Cap
    contacts_7d: Cap
    contacts_30d: Cap
    spacing_h: Annotated[float, Field(ge=0, le=24 * 365)]

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if problem := caps_contradiction(self.contacts_1d, self.contacts_7d, self.contacts_30d, self.spacing_h):
            raise ValueError(problem)
        return self

    def within(self, other: Caps) -> bool:
        """True when whoever keeps to these keeps to the other."""
        return (
            self.contacts_1d <= other.contacts_1d
            and self.contacts_7d <= other.contacts_7d
            and self.contacts_30d <= other.contacts_30d
            and self.spacing_h >= other.spacing_h
        )


class ChannelSection(Section):
    """One way to contact a user. Quiet hours are those of `utc_offset_h`; equal hours mean none."""

    caps: Caps
    cost: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    response: Annotated[float, Field(gt=0, le=1)] = 1.0
    quiet_from_h: Annotated[int, Field(ge=0, le=23)] = 0
    quiet_until_h: Annotated[int, Field(ge=0, le=23)] = 0
    utc_offset_h: Annotated[float, Field(ge=-14, le=14)] = 0.0


class ContactSection(Section):
    """Contacts over all channels together, and what one is taken to do before there are data."""

    caps: Caps = Caps(contacts_1d=1, contacts_7d=3, contacts_30d=8, spacing_h=24)
    assumed_effect: Annotated[float, Field(gt=0, le=1)] = 0.05


class StateSection(Section):
    """What AUTO means in this state, how much to explore, how often to contact, and what serves without a model."""

    objective: Literal["activate", "retain", "explore"]
    horizon_days: Annotated[float, Field(ge=1, le=90)] = 7.0
    relevance_floor: Annotated[float, Field(ge=0, lt=1)] = 0.0
    exploration_rate: Annotated[float, Field(ge=0, le=0.5)]
    exploration_slots: Annotated[int, Field(ge=0, le=20)] = 2
    sources: tuple[Literal["retrieval", "popular", "fresh"], ...] = Field(DEFAULT_SOURCES, min_length=1)
    prior: Literal["popular", "fresh"] = "popular"
    ramp_up_days: Annotated[float, Field(ge=0, le=90)] = 0.0
    channels: dict[ChannelName, Caps] = {}


class States(Section):
    new: StateSection = StateSection(objective="explore", exploration_rate=0.2)
    active: StateSection = StateSection(objective="retain", exploration_rate=0.05, prior="fresh", horizon_days=1)
    casual: StateSection = StateSection(objective="activate", exploration_rate=0.1)
    at_risk: StateSection = StateSection(objective="activate", exploration_rate=0.05)
    dormant: StateSection = StateSection(
        objective="activate",
        exploration_rate=0.05,
        channels={"push": Caps(contacts_1d=1, contacts_7d=1, contacts_30d=3, spacing_h=96)},
    )
    resurrected: StateSection = StateSection(objective="retain", exploration_rate=0.1, ramp_up_days=7)


CHANNELS = {
    "push": ChannelSection(
        caps=Caps(contacts_1d=1, contacts_7d=2, contacts_30d=6, spacing_h=48),
        cost=1.0,
        response=1.0,
        quiet_from_h=21,
        quiet_until_h=8,
    ),
    "email": ChannelSection(
        caps=Caps(contacts_1d=1, contacts_7d=2, contacts_30d=4, spacing_h=72), cost=0.5, response=0.6
    ),
}


def version_of(name: str, text: str) -> str:
    """Of a policy as JSON."""
    return f"{name}@{hashlib.sha256(text.encode()).hexdigest()[:12]}"


class Policy(Section):
    """One version of the policy; the defaults are those shipped."""

    name: Name = "activation"
    holdout: HoldoutSection = HoldoutSection()
    layers: tuple[LayerSection, ...] = ()
    exploration: ExplorationSection = ExplorationSection()
    fatigue: FatigueSection = FatigueSection()
    diversity: DiversitySection = DiversitySection()
    objectives: Objectives = Objectives()
    contacts: ContactSection = ContactSection()
    channels: dict[ChannelName, ChannelSection] = CHANNELS
    states: States = States()

    @model_validator(mode="after")
    def _agree(self) -> Self:
        for state in Lifecycle:
            for name, caps in self.state(state).channels.items():
                where = f"states.{state}.channels.{name}"
                if name not in self.channels:
                    raise ValueError(f"{where}: there is no such channel; there are {', '.join(sorted(self.channels))}")
                if not caps.within(self.channels[name].caps):
                    raise ValueError(
                        f"{where}: contradictory caps: a state can only be stricter than channels.{name}.caps; lower "
                        "its caps and raise its spacing_h to theirs, or loosen the channel"
                    )
        salts = [self.holdout.salt, self.exploration.salt, *(layer.salt for layer in self.layers)]
        repeated("the salt", salts)
        repeated("but for case and blanks, the channel", map(spelled, self.channels))
        if problem := experiments_contradiction(self.layers):
            raise ValueError(problem)
        return self

    @cached_property
    def version(self) -> str:
        """The name and a hash of all that it says."""
        return version_of(self.name, self.model_dump_json())

    @cached_property
    def variants(self) -> dict[tuple[str, ...], Policy]:
        """The policies of its arms as far as they were asked for, by the arms' names."""
        return {}

    def state(self, state: Lifecycle) -> StateSection:
        section: StateSection = getattr(self.states, state.value)
        return section

    def objective(self, wanted: Objective, state: Lifecycle) -> ObjectiveSection:
        name = self.state(state).objective if wanted is Objective.AUTO else wanted.value
        section: ObjectiveSection = getattr(self.objectives, name)
        return section

    def prior(self, state: Lifecycle) -> Source:
        return Source(self.state(state).prior)

    def caps(self, state: Lifecycle, channel: str) -> Caps:
        """What holds for the users of that state on that channel."""
        return self.state(state).channels.get(channel, self.channels[channel].caps)
