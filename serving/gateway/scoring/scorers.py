"""The scorers that the settings name: one for the label that answers, others for canary and shadow."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

from feature_repo.errors import LongtailError
from feature_repo.layout import StateDir
from serving.gateway.errors import Cause, ModelError
from serving.gateway.observing.telemetry import Telemetry
from serving.gateway.ports import Scorer
from serving.gateway.scoring.model_contract import Contracts
from serving.gateway.scoring.rollout import Rollout
from serving.gateway.scoring.tfserving_scorer import TensorFlowServing
from serving.gateway.settings import GatewaySettings

CHECK_TIMEOUT_S: Final = 5.0

_log = logging.getLogger(__name__)


class Scorers:
    """`scorer` is the one that rankings ask."""

    def __init__(self, settings: GatewaySettings, state: StateDir, telemetry: Telemetry) -> None:
        self._settings = settings
        self._contracts = Contracts(path=settings.contract_path, models=state.models)
        self._telemetry = telemetry
        self._closers: list[Callable[[], Awaitable[None]]] = []
        self._told = ""
        self._stable = self._open(settings.model_version_label)
        rollout = settings.rollout
        opened = Rollout(
            rollout,
            stable=self._stable,
            canary=self._open(rollout.canary_label) if rollout.canary_label else None,
            shadow=self._open(rollout.shadow_label) if rollout.shadow_label else None,
            telemetry=telemetry,
        )
        self._closers.insert(0, opened.close)
        self.scorer: Scorer = opened

    async def verify_at_start(self, *, timeout_s: float) -> None:
        """Raises LongtailError for a model of another contract; starts degraded when none answers."""
        name, address = self._settings.model_name, self._settings.model_server
        try:
            await self._stable.verify(timeout_s=timeout_s)
        except ModelError as error:
            if error.cause is Cause.CONTRACT_MISMATCH:
                raise LongtailError(
                    f"the model {name} at {address} does not follow its contract: {error.detail}; "
                    "serve the model that was published, or set gateway.contract_path to its contract"
                ) from error
            _log.warning("starting without the model at %s, and trying on: %s", address, error.detail)

    async def check(self) -> None:
        """Tells what became of the model, once."""
        told = ""
        try:
            await self._stable.verify(timeout_s=CHECK_TIMEOUT_S)
            self._telemetry.model_version.set(self._stable.version)
        except ModelError as error:
            self._telemetry.model_version.set(0)
            told = str(error)
        if told and told != self._told:
            _log.error("rankings go without the model: %s", told)
        self._told = told

    async def close(self) -> None:
        for close in self._closers:
            await close()

    def _open(self, label: str) -> TensorFlowServing:
        settings = self._settings
        scorer = TensorFlowServing(
            settings.model_server,
            model_name=settings.model_name,
            label=label,
            contracts=self._contracts,
            calls=settings.model_calls,
            users_a_call=settings.model_users_a_call,
        )
        self._closers.append(scorer.close)
        return scorer
