"""One user's ranking by two gateways side by side: another policy, or another version of the model."""

from __future__ import annotations

from nicegui import ui

from console import tables
from console.desk import Desk
from console.pages import frame
from longtail.activation.v1 import activation_pb2 as pb

ITEMS = 20


async def show(desk: Desk, user_id: str) -> None:
    await frame.open_page(desk, "Compare")
    if not desk.compare_with:
        frame.notice(
            "There is nothing to compare with: start a second gateway with the other policy or model label, and name "
            "it in console.compare_with.",
            colour="amber",
        )
        return

    async def compare() -> None:
        named = field.value or ""
        if named:
            with frame.errors_shown(answer):
                ours = await desk.ask(lambda client: client.rank(named, limit=ITEMS, explain=True))
                theirs = await desk.ask(
                    lambda client: client.rank(named, limit=ITEMS, explain=True), address=desk.compare_with
                )
                _show(ours, theirs)

    with ui.row().classes("items-center"):
        field = ui.input("user", value=user_id).props("outlined dense autofocus")
        ui.button("Compare", on_click=compare)
        ui.label(f"A {desk.gateway}   B {desk.compare_with}").classes("text-grey-7")
    answer = ui.column().classes("w-full")
    field.on("keydown.enter", compare)
    await compare()


def _show(ours: pb.RankItemsResponse, theirs: pb.RankItemsResponse) -> None:
    with ui.row().classes("w-full items-start gap-8"):
        for name, answer in (("A", ours), ("B", theirs)):
            with ui.column():
                ui.label(name).classes("text-lg font-bold")
                frame.facts(tables.ranking_facts(answer))
                for text in tables.degraded_texts(answer.degraded_causes):
                    frame.notice(f"degraded: {text}", colour="amber")
    frame.table(tables.compared_lines(ours, theirs), key="item", title="Side by side")
