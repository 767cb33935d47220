"""Commands: what the versions in service are called, and the job that makes new ones."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from cli.training.publish import model_config, user_weights_file, write_user_weights
from feature_repo.errors import LongtailError

if TYPE_CHECKING:
    from cli.settings import Settings
    from training.release.retraining import News

COMMAND = (sys.executable, "-P", "-m", "cli.main")
TRAIN = ("train",)
REFIT = ("refit",)
STEPS = (
    ("features", "build"),
    ("features", "apply"),
    TRAIN,
    ("evaluate",),
    REFIT,
    ("export",),
    ("publish",),
    ("features", "materialize"),
)


def register(app: typer.Typer) -> None:
    """Adds these commands to `longtail`."""
    app.command()(label)
    app.command()(retrain)


def label(
    context: typer.Context,
    *,
    name: Annotated[str, typer.Argument(help="stable, canary, or any other that the gateway's settings name.")],
    version: Annotated[int | None, typer.Argument(help="A published version.")] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take the label away instead.")] = False,
    wait: Annotated[float, typer.Option(min=0, help="Seconds for the model server to load the version.")] = 120,
    offline: Annotated[
        bool, typer.Option("--offline", help="Do not ask the model server: it is not started yet.")
    ] = False,
) -> None:
    """Give a published version a TensorFlow Serving label, once the model server has loaded it.

    Writes the file of training.model_config_file, which the server polls; it loads the labelled versions and no other.
    `stable` takes the version's other labels, and its users' own weights become those in service.

    Example: `longtail label canary 20260102030405`, later `longtail label stable 20260102030405`.
    """
    settings: Settings = context.obj
    config = model_config(settings)
    if config is None:
        raise LongtailError("training.model_config_file is not set; labels need the model server's --model_config_file")
    if remove:
        config.without_label(name)
        typer.echo(f"{config.path}: {name} is gone")
        return
    if version is None:
        raise typer.BadParameter("name a version, or --remove")
    _label(settings, name, version, wait_s=None if offline else wait)


def retrain(
    context: typer.Context,
    *,
    min_events: Annotated[int, typer.Option(min=0, help="Train when so many engagements are new.")] = 1000,
    every_hours: Annotated[
        float | None,
        typer.Option("--every-hours", min=0, help="Look again after so long, until Ctrl-C. Default: once."),
    ] = None,
    label: Annotated[
        str, typer.Option("--label", help="Give the new version this label, such as canary; default: it takes over.")
    ] = "",
    warm: Annotated[
        bool, typer.Option("--warm", help="Start from the last training's weights, for training.warm_epochs at most.")
    ] = False,
    distil: Annotated[
        bool, typer.Option("--distil", help="Then train a small student of that model, and go on with the student.")
    ] = False,
) -> None:
    """Train, measure, gate and publish a new version when enough events came in since the one in service.

    The steps are the commands a person would type, `longtail refit` among them where training.refit says so. A version
    that the gate refuses is not published, and the one in service stays; the command then ends with 1, or with
    --every-hours says so and looks again later.

    Example: `longtail retrain --min-events 5000 --every-hours 24 --label canary`
    """
    settings: Settings = context.obj
    from training.release.retraining import alone

    if label and settings.training.model_config_file is None:
        raise LongtailError("--label needs training.model_config_file, the model server's --model_config_file")
    signal.signal(signal.SIGTERM, _end)
    with alone(settings.state.training) as lock:
        while True:
            try:
                _retrain_if_due(settings, lock, min_events=min_events, label=label, warm=warm, distil=distil)
            except LongtailError as error:
                if every_hours is None:
                    raise
                typer.echo(f"error: {error}", err=True)
            if every_hours is None:
                return
            time.sleep(every_hours * 3600)


def _end(*_: object) -> NoReturn:
    """Takes the step at work along: `subprocess.run` kills it when it is left by an exception."""
    raise SystemExit(128 + signal.SIGTERM)


def _retrain_if_due(settings: Settings, lock: int, *, min_events: int, label: str, warm: bool, distil: bool) -> None:
    news = _news(settings)
    typer.echo(f"{datetime.now(UTC):%Y-%m-%d %H:%M} {news}")
    if news.events < min_events:
        typer.echo(f"nothing to do: {min_events} are needed (--min-events)")
        return
    is_refitted = settings.training.refit and not distil  # a student has nobody to learn the test from
    for step in STEPS if is_refitted else [step for step in STEPS if step != REFIT]:
        _run(settings, (*step, "--warm") if warm and step == TRAIN else step, lock)
        if distil and step == TRAIN:
            _run(settings, (*TRAIN, "--distil"), lock)
    if label:
        from training.release import publish as publishing

        _label(settings, label, publishing.check_export(publishing.latest_export(settings.state.exports)), wait_s=120)


def _news(settings: Settings) -> News:
    from training.release import publish as publishing
    from training.release.retraining import news_since

    config = model_config(settings)
    stable = None if config is None else config.labels().get("stable")
    published = publishing.in_service(settings.state.models, user_weights=user_weights_file(settings), stable=stable)
    return news_since(settings.state.events, None if published is None else published.directory, settings.features)


def _run(settings: Settings, step: tuple[str, ...], lock: int) -> None:
    """The step has the lock too: should it outlive us, no other retraining begins beside it."""
    arguments = ("--state-dir", str(settings.state_dir), *step)
    typer.secho(f"$ longtail {shlex.join(arguments)}", dim=True)
    if code := subprocess.run([*COMMAND, *arguments], check=False, pass_fds=(lock,)).returncode:
        raise LongtailError(f"`longtail {shlex.join(step)}` ended with exit code {code}; what is in service stays")


def _label(settings: Settings, name: str, version: int, *, wait_s: float | None) -> None:
    """A server refuses a file whose label names what is not loaded: so the version comes first, then its label."""
    from serving.model_status import await_version
    from training.release.model_config import STABLE

    config = model_config(settings)
    assert config is not None
    if not (settings.state.models / str(version)).is_dir():
        raise LongtailError(f"version {version} is not in {settings.state.models}; publish it first")
    config.with_version(version)
    if wait_s is not None:
        await_version(settings.gateway.model_server, model=config.model, version=version, timeout_s=wait_s)
    config.with_label(name, version)
    typer.echo(f"{config.path}: {name} is {version}")
    if name == STABLE:
        write_user_weights(settings, version)
