"""Look a user up: state, features with their age, history, and the ranking with the reasons for each place."""

from __future__ import annotations

from nicegui import ui

from console import tables
from console.desk import Desk
from console.pages import frame
from longtail.activation.v1 import activation_pb2 as pb

ITEMS = 20


async def show(desk: Desk, user_id: str) -> None:
    await frame.open_page(desk, "Users")

    async def look_up() -> None:
        named = field.value or ""
        if named:
            with frame.errors_shown(answer):
                known = await desk.ask(lambda client: client.state(named))
                ranking = await desk.ask(lambda client: client.rank(named, limit=ITEMS, explain=True))
                _show(known, ranking)

    with ui.row().classes("items-center"):
        field = ui.input("user", value=user_id).props("outlined dense autofocus")
        ui.button("Look up", on_click=look_up)
    answer = ui.column().classes("w-full")
    field.on("keydown.enter", look_up)
    await look_up()


def _show(known: pb.GetUserStateResponse, ranking: pb.RankItemsResponse) -> None:
    for text in tables.degraded_texts([*known.degraded_causes, *ranking.degraded_causes]):
        frame.notice(f"degraded: {text}", colour="amber")
    with ui.row().classes("w-full items-start gap-8"):
        frame.facts(tables.state_facts(known.user_state))
        frame.facts(tables.ranking_facts(ranking))
    frame.table(tables.ranking_lines(ranking.items), key="rank", title="What it would be shown")
    with ui.row().classes("w-full items-start no-wrap gap-8"):
        frame.table(tables.feature_lines(known.feature_status), key="view", title="Features")
        frame.table(tables.history_lines(known.history), key="place", title="History", per_page=10)
