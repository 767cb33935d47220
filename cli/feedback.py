"""Command `feedback-worker`: from recorded events to fresh rows, as a process of its own."""

from __future__ import annotations

import logging
import signal
import threading
from datetime import UTC, datetime
from types import FrameType
from typing import TYPE_CHECKING

import typer

from feature_repo.errors import LongtailError

if TYPE_CHECKING:
    from cli.settings import Settings
    from feature_repo.log.event_streams import Intake


def register(app: typer.Typer) -> None:
    """Adds `feedback-worker`."""
    app.command("feedback-worker")(feedback_worker)


def feedback_worker(context: typer.Context) -> None:
    """Keep the online store fresh from recorded events until SIGTERM or Ctrl-C.

    With `features.event_stream` redis or kafka it first takes the stream's events into the event log. On one machine
    the gateway does this work itself, unless `gateway.follow_feedback` is off; only one works at a time.

    Example: `LONGTAIL_GATEWAY__FOLLOW_FEEDBACK=false longtail gateway`, and in another shell `longtail feedback-worker`
    """
    from feature_repo.log.event_log import EventLog
    from feature_repo.log.event_streams import Intake, open_source
    from feature_repo.stream.updates import open_worker

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings: Settings = context.obj
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    worker = open_worker(settings.state, settings.features)
    source = open_source(settings.features)
    taking = None
    if source is not None:
        intake = Intake(source, EventLog(settings.state.events), settings.state.quarantine)
        taking = threading.Thread(target=_take, args=(intake, stop), name="intake")
        taking.start()
    typer.echo(f"feedback worker ready: {settings.features.event_stream} → {settings.features.online_store}")
    worker.run(stop)
    if taking is not None and source is not None:
        taking.join()
        source.close()
    worker.close()


def _take(intake: Intake, stop: threading.Event) -> None:
    from feature_repo.log.event_streams import POLL_S
    from feature_repo.stream.updates import RETRY_S

    while not stop.is_set():
        try:
            intake.step(now=datetime.now(UTC), timeout_s=POLL_S)
        except (LongtailError, OSError) as error:
            logging.getLogger(__name__).warning("the stream waits: %s", error)
            stop.wait(RETRY_S)
