"""The console as a person sees it: in a real browser, before a gateway over real gRPC."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import httpx
import pytest
from playwright.async_api import Page, expect

from feature_repo.decisions.records import POLICIES
from loadtest.processes import free_address
from longtail.activation.v1 import activation_pb2 as pb
from serving.gateway.access.caller import Scope
from serving.gateway.decisions.explaining import DecisionArchive
from serving.gateway.errors import Cause, FeaturesError
from serving.gateway.policy.book import PolicyBook
from serving.gateway.running.metrics_endpoint import serve_metrics
from tests.console.conftest import Serve
from tests.gateway.conftest import Start
from tests.gateway.fakes import World
from tests.gateway.test_access import Holder
from tests.gateway.test_replay import open_log


async def look_up(page: Page, user: str) -> None:
    await page.get_by_label("user").fill(user)
    await page.get_by_role("button", name="Look up").click()


async def test_a_user_is_looked_up_with_state_features_history_and_ranking(
    start: Start, world: World, serve: Serve, page: Page
) -> None:
    running = await start(world)
    address = await serve("--address", f"127.0.0.1:{running.gateway.port}")
    await page.goto(address)
    await look_up(page, "active")
    await expect(page.get_by_text("What it would be shown")).to_be_visible()
    await expect(page.get_by_text("relevance").first).to_be_visible()
    await expect(page.get_by_text("user_behavior")).to_be_visible()
    await expect(page.get_by_text("SHOW", exact=True)).to_be_visible()
    assert await page.locator("table").count() == 3


async def test_a_name_that_is_markup_is_shown_as_it_is(start: Start, world: World, serve: Serve, page: Page) -> None:
    running = await start(world)
    address = await serve("--address", f"127.0.0.1:{running.gateway.port}")
    await page.goto(f"{address}/?user=%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E")
    await expect(page.get_by_text("never")).to_be_visible()
    assert await page.locator("img").count() == 0


async def test_decisions_are_followed_live_and_lead_to_their_reasons(
    start: Start, world: World, serve: Serve, page: Page, tmp_path: Path
) -> None:
    log = tmp_path / "decisions"
    log.mkdir()
    world.decisions = open_log(log)  # type: ignore[assignment]
    policies = PolicyBook(archive=log / POLICIES)
    running = await start(world, policies=policies, explain=DecisionArchive(log).explain)
    address = await serve("--address", f"127.0.0.1:{running.gateway.port}")
    await page.goto(f"{address}/decisions")
    await expect(page.get_by_text("decisions", exact=False).first).to_be_visible()
    answer = await running.activation.RankItems(pb.RankItemsRequest(user_id="dormant", surface="home"))
    await page.get_by_role("link", name=answer.decision_id).click()
    await expect(page.get_by_text("the same to the last bit")).to_be_visible()
    await expect(page.get_by_text("What was considered")).to_be_visible()


async def test_two_gateways_are_compared_side_by_side(start: Start, world: World, serve: Serve, page: Page) -> None:
    ours = await start(world)
    other = World()
    other.model.scores = {f"i{place:02}": place / 100 for place in range(40)}
    theirs = await start(other)
    address = await serve(
        *("--address", f"127.0.0.1:{ours.gateway.port}", "--compare-with", f"127.0.0.1:{theirs.gateway.port}")
    )
    await page.goto(f"{address}/compare?user=active")
    await expect(page.get_by_text("Side by side")).to_be_visible()
    await expect(page.get_by_text(" in B").first).to_be_visible()


async def test_health_tells_the_workers_where_the_metrics_are_known(
    start: Start, world: World, serve: Serve, page: Page
) -> None:
    running = await start(world)
    metrics = free_address()
    close = serve_metrics(metrics, running.telemetry)
    gateway = ("--address", f"127.0.0.1:{running.gateway.port}")
    await page.goto(f"{await serve(*gateway, '--metrics', metrics)}/health")
    await expect(page.get_by_text("1 of 1 ready")).to_be_visible()
    close()
    await page.goto(f"{await serve(*gateway)}/health")
    await expect(page.get_by_text("unknown; give --metrics")).to_be_visible()


async def test_what_is_degraded_is_said_and_a_gateway_that_is_gone_too(
    start: Start, world: World, serve: Serve, page: Page
) -> None:
    running = await start(world)
    world.features.error = FeaturesError(Cause.UNAVAILABLE, "down")
    address = await serve("--address", f"127.0.0.1:{running.gateway.port}")
    await page.goto(f"{address}/?user=active")
    await expect(page.get_by_text("degraded: features").first).to_be_visible()
    await running.gateway.drain()
    await page.goto(f"{address}/health")
    await expect(page.get_by_text("no gateway answers")).to_be_visible()


async def test_a_visitor_sees_what_the_visitors_own_token_may_see(
    start: Start, world: World, serve: Serve, page: Page, tmp_path: Path
) -> None:
    holder = Holder(tmp_path)
    running = await start(world, gate=holder.gate())
    report = tmp_path / "reports" / "activation.html"
    report.parent.mkdir()
    report.write_text("<h1>Did it work?</h1>")
    # The operator's own token is there, and lent to nobody.
    operators = {"LONGTAIL_CLIENT__TOKEN": holder.tokens[Scope.RANK]}
    address = await serve("--address", f"127.0.0.1:{running.gateway.port}", **operators)
    await page.goto(f"{address}/reports")
    await expect(page.get_by_text("UNAUTHENTICATED")).to_contain_text("at the top of the page")
    assert await page.locator("iframe").count() == 0
    await page.get_by_placeholder("token").fill(holder.tokens[Scope.RANK])
    await page.get_by_role("link", name="Users").click()
    await look_up(page, "active")
    await expect(page.get_by_text("What it would be shown")).to_be_visible()
    await page.get_by_role("link", name="Reports").click()
    await expect(page.frame_locator("iframe").get_by_text("Did it work?")).to_be_visible()


async def test_a_request_under_a_strangers_name_is_refused(serve: Serve) -> None:
    address = await serve("--address", "127.0.0.1:1")
    async with httpx.AsyncClient() as client:
        assert (await client.get(address)).status_code == 200
        assert (await client.get(address, headers={"host": "evil.example"})).status_code == 400


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--listen", "0.0.0.0:0"), "without TLS"),
        (("--listen", "8080"), "give HOST:PORT"),
    ],
)
async def test_it_says_why_it_does_not_start(options: tuple[str, ...], said: str, tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli.main", "console", *options),
        env=dict(os.environ),
        cwd=tmp_path,
        stderr=asyncio.subprocess.PIPE,
    )
    _, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode in (1, 2)
    assert said in err.decode()
