"""Why one past decision was what it was."""

from __future__ import annotations

from nicegui import ui

from console import tables
from console.desk import Desk
from console.pages import frame
from longtail.activation.v1 import activation_pb2 as pb


async def show(desk: Desk, decision_id: str) -> None:
    await frame.open_page(desk, "Decisions")
    answer = ui.column().classes("w-full")

    async def look_up() -> None:
        named = field.value or ""
        if named:
            with frame.errors_shown(answer):
                _show(await desk.ask(lambda client: client.explain(named)))

    with ui.row().classes("items-center"):
        field = ui.input("decision", value=decision_id).props("outlined dense").classes("w-96")
        ui.button("Explain", on_click=look_up)
    answer.move(target_index=-1)
    field.on("keydown.enter", look_up)
    await look_up()


def _show(told: pb.ExplainDecisionResponse) -> None:
    if told.reproduced:
        frame.notice("Computed again, it is the same to the last bit.", colour="green")
    for text in told.differences:
        frame.notice(f"not the same: {text}", colour="amber")
    for text in tables.degraded_texts(told.answer.degraded_causes):
        frame.notice(f"degraded: {text}", colour="amber")
    with ui.row().classes("w-full items-start gap-8"):
        frame.facts(tables.asked_facts(told))
        frame.facts(tables.state_facts(told.answer.user_state))
        frame.facts(tables.ranking_facts(told.answer))
    frame.table(tables.ranking_lines(told.answer.items), key="rank", title="What was answered")
    frame.table(tables.feature_lines(told.answer.feature_status), key="view", title="Features then")
    frame.table(tables.considered_lines(told.considered), key="item", title="What was considered", per_page=20)
