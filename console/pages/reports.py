"""The pages that `longtail report` and `longtail evaluate` wrote, for those whom the gateway answers."""

from __future__ import annotations

from pathlib import Path

from nicegui import ui

from console.desk import Desk, Report
from console.pages import frame


async def show(desk: Desk) -> None:
    await frame.open_page(desk, "Reports")
    answer = ui.column().classes("w-full")
    with frame.errors_shown(answer):
        reports = await desk.reports()
        if not reports:
            frame.notice("There are no reports yet; `longtail report --help` says how to make them.", colour="amber")
        else:
            _show(reports)


def _show(reports: list[Report]) -> None:
    """The page is put into the frame itself, without scripts: no address of its own that a stranger could ask for."""
    inside = ui.element("iframe").props("sandbox").classes("w-full").style("height: 80vh; border: 0")

    def open_report(path: str) -> None:
        inside.props["srcdoc"] = Path(path).read_text()
        inside.update()

    options = {str(report.path): report.name for report in reports}
    first = next(iter(options))
    choice = ui.select(options, value=first, label="report", on_change=lambda change: open_report(change.value))
    choice.classes("w-64").move(target_index=0)
    open_report(first)
