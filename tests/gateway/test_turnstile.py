"""Work in turns: nothing is lost or reordered, and what else the loop has to do comes in between."""

from __future__ import annotations

import asyncio

from serving.gateway.turnstile import Turnstile


async def test_callbacks_run_in_order_and_others_come_in_between() -> None:
    ran: list[str] = []
    turnstile = Turnstile()
    for place in range(5):
        turnstile.soon(lambda place=place: ran.append(f"work {place}"))  # type: ignore[misc]

    async def newcomer() -> None:
        for place in range(3):
            ran.append(f"call {place}")
            await asyncio.sleep(0)

    await newcomer()
    await turnstile.enter()
    assert [one for one in ran if one.startswith("work")] == [f"work {place}" for place in range(5)]
    assert ran.index("call 2") < ran.index("work 2")


async def test_one_who_gave_up_holds_up_nobody() -> None:
    turnstile = Turnstile()
    gone, stays = asyncio.create_task(turnstile.enter()), asyncio.create_task(turnstile.enter())
    await asyncio.sleep(0)
    gone.cancel()
    async with asyncio.timeout(5):
        await stays
        await turnstile.enter()
    assert gone.cancelled()
