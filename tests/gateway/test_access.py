"""Tokens, scopes, quotas, limits and the audit log, over the wire."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from feature_repo.errors import LongtailError
from longtail.activation.v1 import activation_pb2, feedback_pb2, privacy_pb2
from longtail.activation.v1 import activation_pb2 as pb
from serving.gateway.access.caller import Caller, Rate, Scope
from serving.gateway.access.gate import SCOPES, Call, Gate, open_gate
from serving.gateway.access.quota import Quotas
from serving.gateway.access.settings import AuthorizationSettings, QuotaSettings
from serving.gateway.access.tokens import entry_text, new_token
from tests.gateway.certificates import Authority
from tests.gateway.conftest import Start, channel_to
from tests.gateway.fakes import NOW_S, World
from tests.gateway.test_limits import details

ASK = pb.RankItemsRequest(user_id="active")
EVENT = feedback_pb2.RecordEventsRequest(
    events=[feedback_pb2.Event(event_id="e", user_id="u", item_id="i", event_type="click")]
)
REPLAY = pb.RankItemsRequest(user_id="active", now=Timestamp(seconds=int(NOW_S) - 60))
SECRET = "a secret of more than thirty-two bytes"


class Holder:
    """A gateway that takes tokens, and one token of each scope."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "tokens.toml"
        self.audit = directory / "audit"
        self.tokens = {scope: new_token() for scope in Scope}
        self.write(*(entry(token, scope) for scope, token in self.tokens.items()))

    def write(self, *entries: str) -> None:
        self.path.write_text("\n".join(entries))

    def gate(self, *, quota: QuotaSettings | None = None, **settings: Any) -> Gate:
        authorization = AuthorizationSettings(tokens_file=self.path, **settings)
        return open_gate(authorization, quota or QuotaSettings(), allow_replay=False, audit_directory=self.audit)

    def lines(self) -> list[dict[str, str]]:
        return [json.loads(line) for path in self.audit.glob("*.jsonl") for line in path.read_text().splitlines()]


def entry(token: str, *scopes: Scope, expires: datetime | None = None) -> str:
    return entry_text(token, caller="/".join(scopes), scopes=frozenset(scopes), expires=expires)


@pytest.fixture
def holder(tmp_path: Path) -> Holder:
    return Holder(tmp_path)


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


async def outcome(call: Any) -> grpc.aio.AioRpcError | None:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error
    return None


async def told(call: Any) -> tuple[grpc.StatusCode, str]:
    """Code and reason of a refusal."""
    error = await outcome(call)
    assert error is not None, "it was answered"
    return error.code(), details(error, error_details_pb2.ErrorInfo).reason


async def test_each_scope_opens_its_methods_and_no_others(start: Start, world: World, holder: Holder) -> None:
    running = await start(world, gate=holder.gate())
    for scope, token in holder.tokens.items():
        calls = {
            Scope.RANK: running.activation.RankItems(ASK, metadata=bearer(token)),
            Scope.RECORD: running.feedback.RecordEvents(EVENT, metadata=bearer(token)),
        }
        for wanted, call in calls.items():
            error = await outcome(call)
            if wanted is scope:
                assert error is None
                continue
            assert error is not None
            assert error.code() == grpc.StatusCode.PERMISSION_DENIED
            info = details(error, error_details_pb2.ErrorInfo)
            assert (info.reason, info.metadata["scope"]) == ("MISSING_SCOPE", wanted)
            assert f"needs scope {wanted}, and token '{scope}' has {scope}" in (error.details() or "")
    assert running.metric("longtail_refusals_total", method="RankItems", reason="MISSING_SCOPE") == len(Scope) - 1


def test_every_method_of_ours_has_a_scope() -> None:
    services = {
        **activation_pb2.DESCRIPTOR.services_by_name,
        **feedback_pb2.DESCRIPTOR.services_by_name,
        **privacy_pb2.DESCRIPTOR.services_by_name,
    }
    assert {method.name for service in services.values() for method in service.methods} <= set(SCOPES)


def test_a_method_without_one_needs_admin(holder: Holder) -> None:
    def call(scope: Scope) -> Call:
        return Call(method="DropEverything", metadata=bearer(holder.tokens[scope]), peer="ipv4:127.0.0.1:1")

    gate = holder.gate()
    assert gate.admit(call(Scope.ADMIN)).name == "admin"
    with pytest.raises(LongtailError, match="needs scope admin"):
        gate.admit(call(Scope.RANK))


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ((), "NO_CREDENTIALS"),
        ((("authorization", "Basic dTpw"),), "NO_CREDENTIALS"),
        ((("authorization", ""),), "NO_CREDENTIALS"),
        (bearer(""), "BAD_CREDENTIALS"),
        (bearer("lt_wrong"), "BAD_CREDENTIALS"),
        (bearer("a.b.c"), "BAD_CREDENTIALS"),
    ],
)
async def test_without_a_token_that_is_known_nothing_is_parsed_or_read(
    start: Start, world: World, holder: Holder, metadata: Any, reason: str
) -> None:
    running = await start(world, gate=holder.gate())
    raw: Any = running.channel.unary_unary("/longtail.activation.v1.ActivationService/RankItems")
    assert await told(raw(b"\xff\xff", metadata=metadata)) == (grpc.StatusCode.UNAUTHENTICATED, reason)
    assert world.features.asked == []


async def test_health_needs_no_token(start: Start, world: World, holder: Holder) -> None:
    running = await start(world, gate=holder.gate())
    answer = await health_pb2_grpc.HealthStub(running.channel).Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_token_ends_and_one_that_is_taken_away_too(start: Start, world: World, holder: Holder) -> None:
    gate = holder.gate()
    running = await start(world, gate=gate)
    ended, token = new_token(), new_token()
    holder.write(entry(ended, Scope.RANK, expires=datetime(2026, 1, 1, tzinfo=UTC)), entry(token, Scope.RANK))
    gate.reload_if_touched()
    assert (await told(running.activation.RankItems(ASK, metadata=bearer(ended))))[1] == "BAD_CREDENTIALS"
    assert (await running.activation.RankItems(ASK, metadata=bearer(token))).items
    holder.write()
    gate.reload_if_touched()
    assert (await told(running.activation.RankItems(ASK, metadata=bearer(token))))[1] == "BAD_CREDENTIALS"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[[tokens]", "not valid TOML"),
        ('[[tokens]]\ncaller = "c"\nsha256 = "abc"\nscopes = ["rank"]', "tokens.0.sha256"),
        (
            f'[[tokens]]\ncaller = "c"\nsha256 = "{"0" * 64}"\nscopes = ["root"]',
            "'rank', 'record', 'select' or 'admin'",
        ),
        (f'[[tokens]]\ncaller = "c"\nsha256 = "{"0" * 64}"\nscopes = []', "tokens.0.scopes"),
        ("[tokenz]", "tokenz"),
    ],
)
def test_a_file_of_tokens_that_is_wrong_refuses_to_start_and_changes_nothing_later(
    holder: Holder, text: str, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    gate = holder.gate()
    holder.write(text)
    with pytest.raises(LongtailError, match=problem):
        holder.gate()
    gate.reload()
    assert "the last good ones stay in force" in caplog.text
    call = Call(method="RankItems", metadata=bearer(holder.tokens[Scope.RANK]), peer="")
    assert gate.admit(call).name == "rank"


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(LongtailError, match=r"tokens\.toml cannot be read.*gateway\.authorization\.tokens_file"):
        Gate(authorization=AuthorizationSettings(tokens_file=tmp_path / "tokens.toml"))


async def test_a_replay_needs_admin_and_is_on_record(start: Start, world: World, holder: Holder) -> None:
    running = await start(world, gate=holder.gate())
    both = new_token()
    holder.write(entry(both, Scope.RANK, Scope.ADMIN), entry(holder.tokens[Scope.RANK], Scope.RANK))
    running = await start(world, gate=holder.gate())
    refused = running.activation.RankItems(REPLAY, metadata=bearer(holder.tokens[Scope.RANK]))
    assert await told(refused) == (grpc.StatusCode.PERMISSION_DENIED, "MISSING_SCOPE")
    assert (await running.activation.RankItems(REPLAY, metadata=bearer(both))).items
    acts = [(line["caller"], line["act"], line["outcome"]) for line in holder.lines()]
    assert acts == [("rank", "replay", "asked"), ("rank", "replay", "refused"), ("rank/admin", "replay", "asked")]
    assert all("127.0.0.1:" in line["peer"] for line in holder.lines())


def test_an_admin_call_is_on_record_before_and_after(holder: Holder) -> None:
    gate = holder.gate()
    call = Call(method="ForgetUser", metadata=bearer(holder.tokens[Scope.ADMIN]), peer="ipv4:10.0.0.1:4")
    caller = gate.admit(call)
    assert [line["outcome"] for line in holder.lines()] == ["asked"]
    gate.settle(caller, call, code="OK")
    last = holder.lines()[-1]
    assert (last["caller"], last["act"], last["peer"], last["outcome"]) == (
        "admin",
        "ForgetUser",
        "ipv4:10.0.0.1:4",
        "OK",
    )
    assert not [line for line in holder.lines() if holder.tokens[Scope.ADMIN] in json.dumps(line)]


def test_what_cannot_be_put_on_record_is_not_done(holder: Holder) -> None:
    gate = holder.gate()
    holder.audit.write_text("a file where the folder should be")
    with pytest.raises(LongtailError, match="audit log"):
        gate.admit(Call(method="ForgetUser", metadata=bearer(holder.tokens[Scope.ADMIN]), peer=""))


async def test_a_quota_refuses_the_one_who_asks_too_often_and_nobody_else(
    start: Start, world: World, holder: Holder
) -> None:
    greedy, modest = new_token(), new_token()
    holder.write(entry(greedy, Scope.RANK) + "requests_per_s = 0.5\nburst = 2\n", entry(modest, Scope.RANK))
    running = await start(world, gate=holder.gate())
    errors = [await outcome(running.activation.RankItems(ASK, metadata=bearer(greedy))) for _ in range(3)]
    assert errors[:2] == [None, None]
    assert errors[2] is not None
    assert errors[2].code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert details(errors[2], error_details_pb2.ErrorInfo).reason == "QUOTA_EXCEEDED"
    assert 0 < details(errors[2], error_details_pb2.RetryInfo).retry_delay.ToSeconds() <= 2
    for _ in range(5):
        assert await outcome(running.activation.RankItems(ASK, metadata=bearer(modest))) is None


def test_a_bucket_fills_with_time_and_never_over_its_burst() -> None:
    now = 0.0
    quotas = Quotas(Rate(requests_per_s=10, burst=3), clock=lambda: now)
    caller = Caller(name="c", how="token", scopes=frozenset())

    def taken() -> int:
        count = 0
        while True:
            try:
                quotas.take(caller)
            except LongtailError:
                return count
            count += 1

    assert taken() == 3
    now += 0.2
    assert taken() == 2
    now += 3600
    assert taken() == 3


async def test_a_stream_is_slowed_and_not_refused() -> None:
    quotas = Quotas(Rate(requests_per_s=1000, burst=1))
    caller = Caller(name="c", how="token", scopes=frozenset())
    async with asyncio.timeout(10):
        for _ in range(20):
            await quotas.wait(caller)


async def test_callers_without_tokens_are_told_apart_by_certificate(start: Start, world: World, tmp_path: Path) -> None:
    authority = Authority()
    files = authority.issue().write(tmp_path)
    (tmp_path / "ca.pem").write_bytes(authority.certificate)
    gate = Gate(quotas=Quotas(Rate(requests_per_s=0.001, burst=1)))
    clients = [authority.client(authority.issue(name)) for name in ("shop", "app")]
    tls = {**files, "client_ca_file": str(tmp_path / "ca.pem")}
    running = await start(world, tls=tls, gate=gate, credentials=clients[0])
    assert await outcome(running.activation.RankItems(ASK)) is None
    error = await outcome(running.activation.RankItems(ASK))
    assert error is not None
    assert "certificate 'shop'" in (error.details() or "")
    async with channel_to(running.gateway.port, clients[1]) as channel:
        rank: Any = channel.unary_unary("/longtail.activation.v1.ActivationService/RankItems")
        assert await outcome(rank(ASK.SerializeToString())) is None


async def test_what_is_too_large_is_refused_unread(start: Start, world: World) -> None:
    running = await start(world, max_request_kb=64, max_metadata_kb=4)
    large = pb.RankItemsRequest(user_id="u", candidate_item_ids=["i" * 250] * 900)
    error = await outcome(running.activation.RankItems(large))
    assert error is not None
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    error = await outcome(running.activation.RankItems(ASK, metadata=(("a", "x" * 5000),)))
    assert error is not None
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert world.features.asked == []
    assert (await running.activation.RankItems(ASK)).items


RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())
FAR = 4_000_000_000


def jwks(directory: Path) -> Path:
    path = directory / "jwks.json"
    keys = [
        {**jwt.algorithms.RSAAlgorithm.to_jwk(RSA.public_key(), as_dict=True), "kid": "r", "alg": "RS256"},
        {**jwt.algorithms.ECAlgorithm.to_jwk(EC.public_key(), as_dict=True), "kid": "e", "alg": "ES256"},
    ]
    path.write_text(json.dumps({"keys": keys}))
    return path


def signed(key: Any = RSA, *, algorithm: str = "RS256", kid: str | None = "r", **claims: Any) -> str:
    payload = {"sub": "shop", "exp": FAR, "iss": "idp", "aud": "longtail", "scope": "openid rank", **claims}
    payload = {name: value for name, value in payload.items() if value is not None}
    return jwt.encode(payload, key, algorithm=algorithm, headers={} if kid is None else {"kid": kid})


def unsigned(header: Mapping[str, str], **claims: Any) -> str:
    payload = {"sub": "shop", "exp": FAR, "iss": "idp", "aud": "longtail", "scope": "rank admin", **claims}
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in (header, payload)]
    return ".".join([*parts, ""])


def jwt_gate(directory: Path) -> Gate:
    settings = AuthorizationSettings(jwks_file=jwks(directory), jwt_issuer="idp", jwt_audience="longtail")
    return open_gate(settings, QuotaSettings(), allow_replay=False, audit_directory=directory / "audit")


async def test_a_jwt_of_a_known_key_names_the_caller_and_its_scopes(start: Start, world: World, tmp_path: Path) -> None:
    running = await start(world, gate=jwt_gate(tmp_path))
    for token in (signed(), signed(EC, algorithm="ES256", kid="e"), signed(scope=None, scp=["rank"])):
        for _ in range(2):  # the second time it is remembered
            assert (await running.activation.RankItems(ASK, metadata=bearer(token))).items
    error = await outcome(running.feedback.RecordEvents(EVENT, metadata=bearer(signed())))
    assert error is not None
    assert "needs scope record, and jwt 'shop' has rank" in (error.details() or "")


NESTED = base64.urlsafe_b64encode(b"[" * 6000).decode()


@pytest.mark.parametrize(
    ("token", "told_"),
    [
        (signed(exp=1_700_000_000), "expired"),
        (signed(nbf=FAR - 1), "not yet valid"),
        (signed(exp=None), "exp"),
        (signed(sub=None), "sub"),
        (signed(sub=7), "Subject must be"),
        (signed(iss="another"), "issuer"),
        (signed(aud="another"), "Audience"),
        (signed(aud=None), "aud"),
        (signed(kid="unknown"), "'unknown', which is not among"),
        (signed(kid=None), "not among"),
        (signed(rsa.generate_private_key(public_exponent=65537, key_size=2048)), "Signature verification failed"),
        (signed()[:-6] + "AAAAAA", "Signature verification failed"),
        (signed(EC, algorithm="ES256", kid="r"), "alg"),
        (signed("x" * 40, algorithm="HS256", kid="r"), "alg"),
        (unsigned({"alg": "none", "kid": "r"}), "alg"),
        (unsigned({"alg": "None", "kid": "e"}), "alg"),
        (unsigned({"alg": "RS256", "kid": "r"}), "Signature verification failed"),
        ("a.b.c", "refused"),
        (f"{NESTED}.{NESTED}.x", "refused"),
        ("...", "no JWT"),
    ],
)
async def test_a_jwt_that_is_forged_old_or_for_another_is_refused(
    start: Start, world: World, tmp_path: Path, token: str, told_: str
) -> None:
    running = await start(world, gate=jwt_gate(tmp_path), max_metadata_kb=64)
    error = await outcome(running.activation.RankItems(ASK, metadata=bearer(token)))
    assert error is not None
    assert error.code() == grpc.StatusCode.UNAUTHENTICATED
    assert told_ in (error.details() or "")
    assert details(error, error_details_pb2.ErrorInfo).reason == "BAD_CREDENTIALS"
    assert world.features.asked == []


def test_a_jwt_that_was_remembered_ends_all_the_same(tmp_path: Path) -> None:
    now_s = NOW_S
    settings = AuthorizationSettings(jwks_file=jwks(tmp_path), jwt_issuer="idp", jwt_audience="longtail")
    gate = Gate(authorization=settings, clock=lambda: now_s)
    soon = signed(exp=int(datetime.now(UTC).timestamp()) + 60)
    call = Call(method="RankItems", metadata=bearer(soon), peer="")
    gate.admit(call)
    (tmp_path / "jwks.json").write_text('{"keys": []}')
    gate.reload()  # an empty set is none
    gate.admit(call)
    now_s = datetime.now(UTC).timestamp() + 100
    with pytest.raises(LongtailError, match="expired"):
        gate.admit(call)
    now_s = NOW_S
    keys = json.loads(jwks(tmp_path).read_text())["keys"]
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": keys[1:]}))
    gate.reload()  # the key was withdrawn
    with pytest.raises(LongtailError, match="not among"):
        gate.admit(call)


@pytest.mark.parametrize("source", ["file", "setting"])
async def test_a_shared_secret_signs_too(start: Start, world: World, tmp_path: Path, source: str) -> None:
    (tmp_path / "secret").write_text(SECRET + "\n")
    given = {"jwt_secret_file": tmp_path / "secret"} if source == "file" else {"jwt_secret": SECRET}
    running = await start(world, gate=Gate(authorization=AuthorizationSettings.model_validate(given)))
    token = signed(SECRET, algorithm="HS256", kid=None, aud=None)
    assert (await running.activation.RankItems(ASK, metadata=bearer(token))).items
    forged = signed(SECRET + "x", algorithm="HS256", kid=None, aud=None)
    assert (await told(running.activation.RankItems(ASK, metadata=bearer(forged))))[1] == "BAD_CREDENTIALS"


def test_keys_that_cannot_be_used_refuse_to_start(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    secret = {"kty": "oct", "k": "c2VjcmV0", "kid": "s", "alg": "HS256"}
    for text, problem in (("{", "is no JSON"), ("{}", "is no JSON"), (json.dumps({"keys": [secret]}), "no public key")):
        path.write_text(text)
        with pytest.raises(LongtailError, match=problem):
            Gate(authorization=AuthorizationSettings(jwks_file=path))
    path.write_text("short")
    with pytest.raises(LongtailError, match="has 5 bytes; give 32 or more"):
        Gate(authorization=AuthorizationSettings(jwt_secret_file=path))
    with pytest.raises(ValueError, match="give one of"):
        AuthorizationSettings.model_validate({"jwks_file": path, "jwt_secret": SECRET})


async def test_no_token_or_secret_is_logged_or_told(
    start: Start, world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    settings = AuthorizationSettings.model_validate({"jwt_secret": SECRET})
    running = await start(world, gate=Gate(authorization=settings))
    token = signed("wrong" + SECRET, algorithm="HS256", kid=None)
    error = await outcome(running.activation.RankItems(ASK, metadata=bearer(token)))
    assert error is not None
    for text in (caplog.text, str(error.details()), repr(settings), settings.model_dump_json()):
        assert SECRET not in text
        assert token not in text


def test_a_setting_that_is_refused_does_not_show_the_secret_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from cli import settings

    monkeypatch.setenv("LONGTAIL_GATEWAY__AUTHORIZATION__JWT_SECRET", SECRET)
    monkeypatch.setenv("LONGTAIL_GATEWAY__AUTHORIZATION__JWKS_FILE", "/keys.json")
    with pytest.raises(LongtailError) as refused:
        settings.load()
    assert "give one of" in str(refused.value)
    assert SECRET not in str(refused.value)
