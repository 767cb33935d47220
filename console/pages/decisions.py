"""Decisions as they are made, for those whom the gateway answers; each leads to why it was what it was."""

from __future__ import annotations

import asyncio

from nicegui import ui

from console.desk import NOBODY, Desk
from console.following import Following
from console.pages import frame
from console.tables import Line

KEPT = 100
LOOK_S = 1.0
LINK = (
    '<q-td :props="props"><a :href="\'/decision?of=\' + encodeURIComponent(props.value)">{{ props.value }}</a></q-td>'
)


async def show(desk: Desk) -> None:
    await frame.open_page(desk, "Decisions")
    answer = ui.column().classes("w-full")
    with frame.errors_shown(answer):
        await desk.ask(lambda client: client.state(NOBODY))
        _follow(desk)


def _follow(desk: Desk) -> None:
    following = Following(desk.decisions)
    lines: list[Line] = []

    @ui.refreshable
    def table() -> None:
        made = frame.table(lines, key="decision", title=f"The last {KEPT} decisions")
        made.add_slot("body-cell-decision", LINK)

    async def look() -> None:
        if new := await asyncio.to_thread(following.new):
            lines[:] = [*new, *lines][:KEPT]
            table.refresh()

    table()
    ui.timer(LOOK_S, look)
