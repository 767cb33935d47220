"""The gate that every call of ours passes: who is it, may it do this, is it too often."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from feature_repo.errors import LongtailError
from serving.gateway.access import caller as callers
from serving.gateway.access.audit import AuditLog
from serving.gateway.access.caller import EVERY_SCOPE, Caller, Rate, Scope
from serving.gateway.access.jwts import JwtVerifier
from serving.gateway.access.quota import Quotas
from serving.gateway.access.settings import AuthorizationSettings, QuotaSettings
from serving.gateway.access.text_file import stamps
from serving.gateway.access.tokens import TokenBook
from serving.gateway.errors import (
    BadCredentialsError,
    ForgetForbiddenError,
    MissingScopeError,
    NoCredentialsError,
    ReplayForbiddenError,
)

# A method that is not named here needs `admin`; tests/gateway/test_access.py asks for every method to be named.
SCOPES: Final[Mapping[str, Scope]] = {
    "RankItems": Scope.RANK,
    "BatchRankItems": Scope.RANK,
    "GetUserState": Scope.RANK,
    "ExplainDecision": Scope.RANK,
    "SelectUsers": Scope.SELECT,
    "RecordEvents": Scope.RECORD,
    "ForgetUser": Scope.ADMIN,
}
BEARER: Final = "bearer "

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Call:
    """What the transport says of a call."""

    method: str
    metadata: Iterable[tuple[str, str | bytes]]
    peer: str  # such as "ipv4:127.0.0.1:5000"
    certificate: str = ""  # the common name of the client certificate, when there is one


class Gate:
    """Open to all by default, with every scope but replay."""

    def __init__(
        self,
        *,
        authorization: AuthorizationSettings | None = None,
        quotas: Quotas | None = None,
        audit: AuditLog | None = None,
        allow_replay: bool = False,
        allow_forget_user: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Raises LongtailError when a file of tokens or keys cannot be used."""
        self._authorization = authorization or AuthorizationSettings()
        self._quotas = quotas or Quotas()
        self._audit = audit or AuditLog(None)
        self._allow_replay = allow_replay
        self._allow_forget_user = allow_forget_user
        self._clock = clock
        self._paths = _files(self._authorization)
        self._read()

    def admit(self, call: Call) -> Caller:
        """Raises RefusalError. A use of `admin` is on record before it happens, and so is a refused try."""
        caller = self._identify(call)
        scope = SCOPES.get(call.method, Scope.ADMIN)
        if scope is Scope.ADMIN:
            self.record(caller, act=call.method, peer=call.peer, outcome="asked")
        self._require(scope, caller, act=call.method, peer=call.peer)
        self._quotas.take(caller)
        return caller

    def settle(self, caller: Caller, call: Call, *, code: str) -> None:
        """Puts on record how an admin call ended."""
        if SCOPES.get(call.method, Scope.ADMIN) is Scope.ADMIN:
            self.record(caller, act=call.method, peer=call.peer, outcome=code)

    async def wait(self, caller: Caller) -> None:
        await self._quotas.wait(caller)

    def check_replay(self, peer: str) -> None:
        """For a request that sets `now`. Raises RefusalError."""
        caller = callers.current()
        if self._authorization.is_on:
            self.record(caller, act="replay", peer=peer, outcome="asked")
            self._require(Scope.ADMIN, caller, act="replay", peer=peer)
        elif not self._allow_replay:
            raise ReplayForbiddenError(
                "`now` is set, and this gateway answers for now only; set gateway.allow_replay, or turn authorization "
                "on and use a token with scope admin"
            )

    def check_forget_user(self) -> None:
        """`admit` has asked for the scope where authorization is on; else the setting decides. Raises RefusalError."""
        if not self._authorization.is_on and not self._allow_forget_user:
            raise ForgetForbiddenError(
                "this gateway forgets nobody on request; turn authorization on and use a token with scope admin, set "
                "gateway.allow_forget_user, or run `longtail features erase` on its machine"
            )

    def record(self, caller: Caller, *, act: str, peer: str, outcome: str) -> None:
        self._audit.write(caller, act=act, peer=peer, outcome=outcome, now=self._now())

    def reload(self) -> None:
        """Files that cannot be used leave the last good ones in force."""
        self._seen = stamps(self._paths)
        try:
            self._read()
        except LongtailError as error:
            _log.error("tokens not reloaded, the last good ones stay in force: %s", error)
        else:
            _log.info("tokens read again")

    def reload_if_touched(self) -> None:
        if stamps(self._paths) != self._seen:
            self.reload()

    def _require(self, scope: Scope, caller: Caller, *, act: str, peer: str) -> None:
        try:
            caller.require(scope, act=act)
        except MissingScopeError:
            if scope is Scope.ADMIN:
                self.record(caller, act=act, peer=peer, outcome="refused")
            raise

    def _read(self) -> None:
        self._seen = stamps(self._paths)
        settings = self._authorization
        tokens = TokenBook(settings.tokens_file) if settings.tokens_file is not None else None
        self._jwts = JwtVerifier(settings) if settings.takes_jwts else None
        self._tokens = tokens

    def _identify(self, call: Call) -> Caller:
        if self._authorization.is_on:
            return self._bearer(_token(call.metadata))
        if call.certificate:
            return Caller(name=call.certificate, how="certificate", scopes=EVERY_SCOPE)
        return Caller(name=call.peer.rpartition(":")[0] or call.peer, how="address", scopes=EVERY_SCOPE)

    def _bearer(self, token: str) -> Caller:
        if token.count(".") == 2 and self._jwts is not None:
            return self._jwts.caller_of(token, now_unix_s=self._clock())
        if self._tokens is not None:
            return self._tokens.caller_of(token, now=self._now())
        raise BadCredentialsError("the token is no JWT, and this gateway takes only those")

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)


def open_gate(
    authorization: AuthorizationSettings,
    quota: QuotaSettings,
    *,
    allow_replay: bool,
    allow_forget_user: bool = False,
    audit_directory: Path,
) -> Gate:
    """Raises LongtailError when a file of tokens or keys cannot be used."""
    rate = Rate(requests_per_s=quota.requests_per_s, burst=quota.burst) if quota.requests_per_s else None
    return Gate(
        authorization=authorization,
        quotas=Quotas(rate),
        audit=AuditLog(audit_directory),
        allow_replay=allow_replay,
        allow_forget_user=allow_forget_user,
    )


def _files(settings: AuthorizationSettings) -> list[Path]:
    named = (settings.tokens_file, settings.jwks_file, settings.jwt_secret_file)
    return [path for path in named if path is not None]


def _token(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    for key, value in metadata:
        if key == "authorization" and isinstance(value, str) and value[: len(BEARER)].lower() == BEARER:
            return value[len(BEARER) :].strip()
    raise NoCredentialsError('the call has no token; send the metadata "authorization: Bearer TOKEN"')
