"""What stands around every page: the head with its links, the visitor's token, tables, and errors in plain words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from nicegui import app, ui

from console.desk import Desk, token
from console.tables import Line
from feature_repo.errors import LongtailError

LINKS = (
    ("Users", "/"),
    ("Compare", "/compare"),
    ("Decisions", "/decisions"),
    ("Health", "/health"),
    ("Reports", "/reports"),
)


async def open_page(desk: Desk, title: str) -> None:
    """The head of a page. Waits for the browser, whose tab holds the token."""
    ui.page_title(f"{title} · longtail")
    ui.colors(primary="#0f766e")
    with ui.header().classes("items-center gap-6 q-py-sm"):
        ui.label("longtail").classes("text-lg font-bold")
        for name, path in LINKS:
            ui.link(name, path).classes("text-white no-underline" + (" font-bold" if name == title else ""))
        ui.space()
        ui.label(desk.gateway).classes("text-sm opacity-80")
        field = ui.input(placeholder="token", password=True).props("dense dark borderless").classes("w-40")
        field.tooltip("Your token, where the gateway asks for one. It stays in this tab.")
    await ui.context.client.connected()
    field.value = token()
    field.on_value_change(lambda change: app.storage.tab.update(token=(change.value or "").strip()))


@contextmanager
def errors_shown(place: ui.element) -> Iterator[None]:
    """A refusal or a gateway that is gone is said on the page, in `place`, instead of an answer."""
    place.clear()
    try:
        with place:
            yield
    except LongtailError as error:
        place.clear()
        with place:
            notice(str(error), colour="red")


def notice(text: str, *, colour: str) -> None:
    ui.label(text).classes(f"rounded q-pa-sm bg-{colour}-1 text-{colour}-10 w-full").mark("notice")


def facts(pairs: Sequence[tuple[str, str]]) -> None:
    with ui.grid(columns="auto 1fr").classes("gap-x-6 gap-y-1"):
        for name, value in pairs:
            ui.label(name).classes("text-grey-7")
            ui.label(value)


def table(lines: Sequence[Line], *, key: str, title: str, per_page: int = 0) -> ui.table:
    """Columns are the names in the first line; no lines are said to be none."""
    names = list(lines[0]) if lines else []
    columns = [{"name": name, "label": name.replace("_", " "), "field": name, "align": "left"} for name in names]
    rows = [dict(line) for line in lines]
    made = ui.table(columns=columns, rows=rows, row_key=key, title=title, pagination=per_page or None)
    made.props("dense flat bordered" + ("" if lines else ' no-data-label="none"'))
    return made.classes("w-full")
