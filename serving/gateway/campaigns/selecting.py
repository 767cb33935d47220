"""SelectUsers, top to bottom: who → what each is worth → best first → rules on fresh rows → items → on disk → answer.

What the last build knows orders the users; whether one may be contacted is decided on the rows of this moment. A store
that does not answer ends the call: consent is never guessed, and the next call goes on where this one stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final, ParamSpec, TypeVar

import numpy as np

from feature_repo.decisions.campaigns import (
    CONTACTED,
    HELD_OUT,
    WOULD_CONTACT,
    CampaignBusyError,
    CampaignChangedError,
    CampaignError,
    Campaigns,
    Decided,
    Progress,
)
from feature_repo.lifecycle import DAY_S, Lifecycle
from longtail.activation.v1 import activation_pb2 as pb
from serving.gateway.campaigns.audience import Members, ParquetAudience
from serving.gateway.campaigns.expected_return import Worth, best_first, channels_by_value, worth
from serving.gateway.campaigns.selection import Budget, Selection
from serving.gateway.campaigns.selection_wire import encode_suppressed
from serving.gateway.course import Course
from serving.gateway.deadline import Deadline, Stage
from serving.gateway.domain import Campaign, Priority, Query, User, UserId, Verdict
from serving.gateway.errors import BusyError, OtherParametersError, QuietError, SelectionFailedError
from serving.gateway.observing import tracing
from serving.gateway.observing.telemetry import Telemetry
from serving.gateway.pipeline import rank, read_features
from serving.gateway.policy.contact_rules import Contacts, is_quiet, refusal, with_chosen
from serving.gateway.policy.document import Policy
from serving.gateway.policy.experiments import assign, in_campaign_holdout
from serving.gateway.ports import Ports
from serving.gateway.settings import StageShares
from serving.gateway.user import describe
from serving.gateway.wire.encoding import encode_ranking
from serving.gateway.wire.stream import Lane

USERS_AT_ONCE: Final = 64
ANSWERS_AT_ONCE: Final = 500
REMEMBERED_DAYS: Final = 31  # the longest cap looks at 30
USER_DEADLINE_S: Final = 5.0
LEFT_SEGMENT: Final = "left_segment"

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class _Batch:
    """What is the same for users who are decided together. `channels` are those that all of them can be paid on."""

    selection: Selection
    policy: Policy
    channels: tuple[str, ...]
    now_unix_s: float

    def campaign(self, sent: Sequence[tuple[str, float]] = ()) -> Campaign:
        """`sent`: contacts that other campaigns chose."""
        return Campaign(
            campaign_id=self.selection.campaign_id, holdout_rate=self.selection.holdout_rate, sent=tuple(sent)
        )


class Selector:
    """Chooses users for campaigns. Files are read and written by one thread of its own."""

    def __init__(
        self,
        *,
        campaigns: Campaigns,
        audience: ParquetAudience,
        ports: Ports,
        lane: Lane,
        stages: StageShares,
        telemetry: Telemetry,
    ) -> None:
        self._campaigns = campaigns
        self._audience = audience
        self._ports = ports
        self._lane = lane
        self._stages = stages
        self._telemetry = telemetry
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="campaigns")
        self._choosing = asyncio.Lock()  # else a campaign that waits in the thread would wait for one behind it

    async def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def select(
        self, selection: Selection, policy: Policy, clock: Callable[[], float]
    ) -> AsyncIterator[pb.UserDecision]:
        """First what was answered before, then the rest. Raises RefusalError."""
        with ExitStack() as stack:
            try:
                stack.enter_context(self._campaigns.alone(selection.campaign_id))
            except CampaignBusyError as error:
                raise BusyError(str(error), campaign_id=selection.campaign_id) from error
            progress = await self._start(selection, clock())
            async for answer in self._answered(selection.campaign_id):
                yield answer
            if not progress.is_finished:
                async for answer in self._go_on(selection, policy, progress, clock):
                    yield answer

    async def _start(self, selection: Selection, now_unix_s: float) -> Progress:
        try:
            return await self._apart(
                self._campaigns.start, selection.campaign_id, selection.parameters, now_unix_s=now_unix_s
            )
        except CampaignChangedError as error:
            raise OtherParametersError(str(error), campaign_id=selection.campaign_id) from error

    async def _answered(self, campaign_id: str) -> AsyncIterator[pb.UserDecision]:
        first = 0
        while found := await self._apart(self._campaigns.answers, campaign_id, first=first, count=ANSWERS_AT_ONCE):
            first = found[-1][0] + 1
            for _, data in found:
                yield pb.UserDecision.FromString(data)

    async def _go_on(
        self, selection: Selection, policy: Policy, progress: Progress, clock: Callable[[], float]
    ) -> AsyncIterator[pb.UserDecision]:
        by_cost = selection.max_cost is not None
        channels = channels_by_value(policy, selection.channels or tuple(policy.channels), by_cost=by_cost)
        if all(is_quiet(policy.channels[name], clock()) for name in channels):
            raise QuietError(f"{', '.join(channels)}: it is quiet hours on every channel; call again after them")
        budget = Budget(
            max_contacts=selection.max_contacts,
            max_cost=selection.max_cost,
            chosen=progress.chosen,
            cost=progress.cost,
        )
        cheapest, dearest = (pick(policy.channels[name].cost for name in channels) for pick in (min, max))
        members = await self._members(selection, policy, clock())
        worths, left = await self._apart(_ordered, members, policy, progress.user_ids)
        while len(left) and budget.affords(cheapest):
            count = budget.users(USERS_AT_ONCE, dearest)
            places, left = left[:count], left[count:]
            affordable = [name for name in channels if budget.affords(policy.channels[name].cost, users=len(places))]
            async with self._turn():
                batch = _Batch(selection=selection, policy=policy, channels=tuple(affordable), now_unix_s=clock())
                decisions = await self._decide(batch, members.user_ids.take(places).to_pylist())
                for place, one in zip(places, decisions, strict=True):
                    one.basis = worths.basis(place)
                    one.expected_effect = float(worths.effect[place]) * policy.channels[one.channel].response
                    if one.answer.decision != pb.DECISION_SUPPRESSED:
                        budget.spend(one.cost)
                decided = [_decided(one, batch) for one in decisions]
                await self._apart(self._campaigns.add, selection.campaign_id, decided)
            for one in decisions:
                yield one
        await self._apart(self._campaigns.finish, selection.campaign_id)

    async def _members(self, selection: Selection, policy: Policy, now_unix_s: float) -> Members:
        horizons = {state: policy.state(state).horizon_days for state in Lifecycle}
        try:
            if selection.segment is None:
                return await self._apart(self._audience.named, selection.user_ids, horizons=horizons)
            return await self._apart(self._audience.of, selection.segment, now_unix_s=now_unix_s, horizons=horizons)
        except OSError as error:
            raise SelectionFailedError(
                f"the built features cannot be read: {error}; run `longtail features build`"
            ) from error

    async def _decide(self, batch: _Batch, user_ids: Sequence[str]) -> list[pb.UserDecision]:
        since_unix_s = batch.now_unix_s - REMEMBERED_DAYS * DAY_S
        sent = await self._apart(self._campaigns.contacts, user_ids, since_unix_s=since_unix_s)

        async def decide(user_id: str) -> pb.UserDecision:
            async with self._lane.enter():
                with tracing.span("answer"):
                    return await self._about(batch, UserId(user_id), sent.get(user_id, []))

        tasks = [asyncio.ensure_future(decide(user_id)) for user_id in user_ids]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()

    async def _about(self, batch: _Batch, user_id: UserId, sent: Sequence[tuple[str, float]]) -> pb.UserDecision:
        """One user: the best channel that is open, and the items that go with the contact."""
        selection, policy, now_unix_s = batch.selection, batch.policy, batch.now_unix_s
        query = Query(
            user_id=user_id,
            limit=selection.limit,
            priority=Priority.BATCH,
            campaign=batch.campaign(sent),
            idempotency_key=f"campaign {selection.campaign_id}",
        )
        deadline = Deadline.after(USER_DEADLINE_S, self._stages)
        groups = await read_features(
            query,
            self._ports,
            Course(deadline, require_full=True),
            now_unix_s=now_unix_s,
            timeout_s=deadline.timeout_s(Stage.FEATURES),
        )
        user, _ = describe(query, groups, now_unix_s=now_unix_s, lifecycle=self._ports.lifecycle)
        channel, reason = _open_channel(batch, user, with_chosen(Contacts.of(groups["user_contacts"].values), sent))
        if reason:
            answer = encode_suppressed(user, groups, reason=reason, policy_version=policy.version)
            return pb.UserDecision(user_id=user_id, answer=answer, channel=channel)
        query = replace(query, channel=channel, surface=channel)
        ranking = await rank(query, ports=self._ports, policy=policy, now_unix_s=now_unix_s, deadline=deadline)
        self._telemetry.observe(ranking)
        cost = 0.0 if ranking.verdict is Verdict.SUPPRESSED else policy.channels[channel].cost
        return pb.UserDecision(user_id=user_id, answer=encode_ranking(ranking), channel=channel, cost=cost)

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Campaigns choose in turns, in all processes: each sees whom the others chose before it asks for caps."""
        async with self._choosing:
            with ExitStack() as stack:
                await self._apart(stack.enter_context, self._campaigns.choosing())
                yield

    async def _apart(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """In the thread. Raises SelectionFailedError when the campaigns cannot be used."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: work(*args, **kwargs))
        except (CampaignChangedError, CampaignBusyError):
            raise
        except CampaignError as error:
            raise SelectionFailedError(f"{error}; call again to go on") from error


def _ordered(members: Members, policy: Policy, decided: Collection[str]) -> tuple[Worth, np.ndarray]:
    """What each is worth, and the places of those not decided yet, best first."""
    worths = worth(members.outlook, assumed_effect=policy.contacts.assumed_effect)
    order = best_first(worths)
    return worths, order[~members.are_among(decided)[order]]


def _open_channel(batch: _Batch, user: User, histories: Sequence[Contacts]) -> tuple[str, str]:
    """The best channel that may be used; or the best of all, and why that one may not."""
    states = batch.selection.segment.states if batch.selection.segment else frozenset()
    if states and user.state not in states:
        return batch.channels[0], LEFT_SEGMENT
    policy = assign(batch.policy, user.user_id).policy
    reasons = [
        refusal(
            name,
            histories,
            state=user.state,
            days_in_state=user.days_in_state,
            policy=policy,
            now_unix_s=batch.now_unix_s,
        )
        for name in batch.channels
    ]
    if "" in reasons:
        return batch.channels[reasons.index("")], ""
    return batch.channels[0], reasons[0]


def _decided(one: pb.UserDecision, batch: _Batch) -> Decided:
    return Decided(
        user_id=one.user_id,
        outcome=_outcome(one, batch.campaign()),
        channel=one.channel,
        cost=one.cost,
        at_unix_s=batch.now_unix_s,
        answer=one.SerializeToString(),
    )


def _outcome(one: pb.UserDecision, campaign: Campaign) -> str:
    """Whom the permanent holdout alone held out counts as contacted in later campaigns: else those would meet the held
    out under looser caps than the others, and the held out were no random part of the chosen."""
    if one.answer.decision == pb.DECISION_SUPPRESSED:
        return "suppressed"
    if one.answer.decision == pb.DECISION_SHOW:
        return CONTACTED
    return HELD_OUT if in_campaign_holdout(campaign, one.user_id) else WOULD_CONTACT
