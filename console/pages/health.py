"""Is the gateway well: what it says of itself, asked again every few seconds."""

from __future__ import annotations

import asyncio

from nicegui import ui

from console import tables
from console.desk import Desk
from console.pages import frame
from serving.worker_counts import told_workers


async def show(desk: Desk) -> None:
    await frame.open_page(desk, "Health")
    answer = ui.column().classes("w-full")

    async def look() -> None:
        with frame.errors_shown(answer):
            status = await desk.ask(lambda client: client.status())
            workers = await asyncio.to_thread(told_workers, desk.metrics)
            frame.facts([("gateway", status.address), ("health", status.health), ("workers", workers)])
            frame.facts(tables.ranking_facts(status.ranking))
            for text in tables.degraded_texts(status.ranking.degraded_causes):
                frame.notice(f"degraded: {text}", colour="amber")

    await look()
    ui.timer(desk.refresh_s, look, immediate=False)
