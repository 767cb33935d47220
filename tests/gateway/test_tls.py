"""Real TLS: who is trusted, who is let in, and certificates that change or end while calls go on."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from feature_repo.errors import LongtailError
from longtail.activation.v1 import activation_pb2 as pb
from longtail.activation.v1 import activation_pb2_grpc
from serving.gateway.access.settings import TlsSettings
from serving.gateway.access.tls import is_loopback
from tests.gateway.certificates import EXPIRED, VALID, Authority
from tests.gateway.conftest import Running, Start, channel_to
from tests.gateway.fakes import World

ASK = pb.RankItemsRequest(user_id="active")


async def code_of(running: Running, credentials: grpc.ChannelCredentials | None) -> grpc.StatusCode:
    """Of a call over a connection of its own."""
    async with channel_to(running.gateway.port, credentials) as channel:
        try:
            await activation_pb2_grpc.ActivationServiceStub(channel).RankItems(ASK, timeout=10)
        except grpc.aio.AioRpcError as error:
            return error.code()
    return grpc.StatusCode.OK


def mutual(authority: Authority, directory: Path, clients: Authority) -> dict[str, Any]:
    """Settings of a gateway that wants client certificates."""
    files = authority.issue().write(directory)
    (directory / "clients.pem").write_bytes(clients.certificate)
    return {"tls": TlsSettings.model_validate({**files, "client_ca_file": directory / "clients.pem"})}


async def test_a_client_that_trusts_the_authority_is_answered_and_others_are_not(
    start: Start, world: World, tmp_path: Path
) -> None:
    authority = Authority()
    running = await start(world, tls=authority.issue().write(tmp_path), credentials=authority.client())
    assert (await running.activation.RankItems(ASK, timeout=10)).items
    assert await code_of(running, Authority("another").client()) == grpc.StatusCode.UNAVAILABLE
    assert await code_of(running, None) == grpc.StatusCode.UNAVAILABLE


async def test_with_mutual_tls_a_client_needs_a_certificate_of_the_right_authority(
    start: Start, world: World, tmp_path: Path
) -> None:
    authority, clients = Authority(), Authority("clients")
    running = await start(world, **mutual(authority, tmp_path, clients), credentials=authority.client())
    assert await code_of(running, authority.client(clients.issue("shop"))) == grpc.StatusCode.OK
    for pair in (None, authority.issue("shop"), clients.issue("shop", valid=EXPIRED)):
        assert await code_of(running, authority.client(pair)) == grpc.StatusCode.UNAVAILABLE
    assert len(world.decisions.recorded) == 1


async def test_a_renewed_certificate_is_used_from_the_next_connection_on_and_none_is_cut(
    start: Start, world: World, tmp_path: Path
) -> None:
    old, new = Authority("old"), Authority("new")
    running = await start(world, tls=old.issue().write(tmp_path), credentials=old.client())
    assert (await running.activation.RankItems(ASK, timeout=10)).items
    before = running.metric("longtail_certificate_not_after_seconds")
    new.issue(valid=2 * VALID).write(tmp_path)
    assert await code_of(running, new.client()) == grpc.StatusCode.OK
    assert await code_of(running, old.client()) == grpc.StatusCode.UNAVAILABLE
    assert (await running.activation.RankItems(ASK, timeout=10)).items  # the connection made before
    assert running.metric("longtail_certificate_not_after_seconds") > before


def spoil(wrong: str, authority: Authority, directory: Path) -> None:
    if wrong == "half":  # a new certificate beside the old key, as between two writes
        (directory / "server.pem").write_bytes(authority.issue().certificate)
    elif wrong == "empty":
        (directory / "server.pem").write_bytes(b"")
    elif wrong == "gone":
        (directory / "server.key").unlink()
    else:
        authority.issue(valid=EXPIRED).write(directory)


@pytest.mark.parametrize("wrong", ["half", "empty", "gone", "expired"])
async def test_a_renewal_that_cannot_be_used_leaves_the_last_good_one(
    start: Start, world: World, tmp_path: Path, wrong: str, caplog: pytest.LogCaptureFixture
) -> None:
    authority = Authority()
    running = await start(world, tls=authority.issue().write(tmp_path), credentials=authority.client())
    spoil(wrong, authority, tmp_path)
    assert await code_of(running, authority.client()) == grpc.StatusCode.OK
    assert "the last good one stays in force" in caplog.text
    authority.issue().write(tmp_path)
    assert await code_of(running, authority.client()) == grpc.StatusCode.OK


async def test_when_the_certificate_ends_under_load_open_connections_go_on_and_a_renewal_brings_back_the_rest(
    start: Start, world: World, tmp_path: Path
) -> None:
    authority = Authority()
    pair = authority.issue(valid=timedelta(seconds=4))
    running = await start(world, tls=pair.write(tmp_path), credentials=authority.client())
    ended = asyncio.Event()

    async def load() -> list[pb.RankItemsResponse]:
        answers = []
        while not ended.is_set():
            answers.append(await running.activation.RankItems(ASK, timeout=10))
            await asyncio.sleep(0.02)
        return answers

    callers = [asyncio.create_task(load()) for _ in range(4)]
    while await code_of(running, authority.client()) == grpc.StatusCode.OK:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    assert running.metric("longtail_certificate_not_after_seconds") <= time.time()
    authority.issue().write(tmp_path)
    assert await code_of(running, authority.client()) == grpc.StatusCode.OK
    ended.set()
    answers = [answer for task in callers for answer in await task]
    assert answers
    assert not [answer for answer in answers if answer.degraded or not answer.items]


@pytest.mark.parametrize(
    ("certificate", "key", "told"),
    [
        ("gateway", "another", "is not the key of the certificate"),
        ("expired", "expired", "expired at"),
        ("none", "gateway", "has no PEM certificate"),
        ("gateway", "none", "is no PEM private key"),
        ("missing", "gateway", "cannot be read"),
    ],
)
async def test_a_certificate_that_cannot_be_used_refuses_to_start(
    start: Start, world: World, tmp_path: Path, certificate: str, key: str, told: str
) -> None:
    authority = Authority()
    pairs = {"gateway": authority.issue(), "another": authority.issue(), "expired": authority.issue(valid=EXPIRED)}
    for name, pair in pairs.items():
        pair.write(tmp_path, name=name)
    (tmp_path / "none.pem").write_text("nothing")
    (tmp_path / "none.key").write_text("nothing")
    tls = {"cert_file": tmp_path / f"{certificate}.pem", "key_file": tmp_path / f"{key}.key"}
    with pytest.raises(LongtailError, match=told):
        await start(world, tls=tls)


@pytest.mark.parametrize("files", [{"cert_file": "c"}, {"key_file": "k"}, {"client_ca_file": "a"}])
def test_half_a_pair_is_no_setting(files: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="cert_file"):
        TlsSettings.model_validate(files)


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "10.1.2.3:0", "gateway.internal:0"])
async def test_an_address_that_others_reach_is_refused_without_tls(start: Start, world: World, address: str) -> None:
    with pytest.raises(LongtailError, match=r"without TLS; set .*allow_public_plaintext"):
        await start(world, address=address)


async def test_so_is_an_address_for_metrics(start: Start, world: World) -> None:
    with pytest.raises(LongtailError, match=r"gateway.metrics_address 0.0.0.0:9 can be reached"):
        await start(world, metrics_address="0.0.0.0:9")


async def test_a_public_address_is_taken_with_tls_or_when_it_is_wanted(
    start: Start, world: World, tmp_path: Path
) -> None:
    authority = Authority()
    running = await start(world, address="0.0.0.0:0", tls=authority.issue().write(tmp_path))
    assert await code_of(running, authority.client()) == grpc.StatusCode.OK
    running = await start(world, address="0.0.0.0:0", allow_public_plaintext=True)
    assert await code_of(running, None) == grpc.StatusCode.OK


def test_loopback_is_told_from_the_rest() -> None:
    assert all(is_loopback(one) for one in ("127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1"))
    assert not any(is_loopback(one) for one in ("0.0.0.0:1", "[::]:1", "192.168.0.1:1", "localhost.example.com:1"))
