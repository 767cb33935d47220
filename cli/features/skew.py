"""Commands: what serving reads beside what training would."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from feature_repo.errors import LongtailError

if TYPE_CHECKING:
    from cli.settings import Settings
    from feature_repo.checks.skew_tally import Difference, FeatureSkew
    from feature_repo.contract import FeatureValue

_SHOWN = 5


def register(group: typer.Typer) -> None:
    """Adds these commands to `longtail features`."""
    group.command()(skew)


def skew(
    context: typer.Context,
    user: Annotated[list[str] | None, typer.Option("--user", "-u", help="Of this user; may be repeated.")] = None,
    item: Annotated[list[str] | None, typer.Option("--item", "-i", help="Of this item; may be repeated.")] = None,
    sample: Annotated[int, typer.Option(min=1, help="Without --user and --item: so many of the event log.")] = 1000,
    decisions: Annotated[
        int | None, typer.Option(min=1, help="Instead: what the newest so many decisions told the model.")
    ] = None,
) -> None:
    """Compare the rows that serving reads with what the event log gives for the same moment. Exits 1 when they differ.

    Feature by feature: streamed columns at the row's own time, a build's columns at the build's, and what the model
    gets of either. With `--decisions`, what the decision log says that the model got.

    Example: `longtail features skew --sample 200`
    """
    if decisions is not None:
        if user or item:
            raise typer.BadParameter("give --decisions, or --user and --item")
        _skew_of_decisions(context.obj, decisions)
        return
    from cli.data import reporting
    from feature_repo.checks import skew as training_serving
    from feature_repo.checks.skew_items import measure_items
    from feature_repo.log.pseudonyms import open_pseudonyms
    from feature_repo.online.store import open_store

    settings: Settings = context.obj
    pseudonyms = open_pseudonyms(settings.features.pseudonym_key_file)
    users = [each if pseudonyms is None else pseudonyms.of(each) for each in user or ()]
    store = open_store(settings.state, settings.features)
    found = {}
    with reporting() as report:
        if users or not item:
            found["users"] = training_serving.measure(
                settings.state, settings.features, store, users=users, sample=sample, report=report
            )
        if item or not users:
            found["items"] = measure_items(
                settings.state, settings.features, store, items=item or (), sample=sample, report=report
            )
    for who, measured in found.items():
        for one in measured.features:
            typer.echo(f"  {one.view}.{one.feature}: {_skew_line(one)}")
        typer.echo(
            f"{measured.asked} {who}: {measured.waiting} came after the tables last loaded and have no row yet, "
            f"{measured.moved} changed while they were read"
        )
        for note in measured.notes:
            typer.echo(note)
    _refuse_skew([one for measured in found.values() for one in measured.skewed])


def _skew_of_decisions(settings: Settings, count: int) -> None:
    from cli.data import reporting
    from feature_repo.checks.skew_decisions import measure_decisions

    with reporting() as report:
        found = measure_decisions(settings.state, settings.features, count=count, report=report)
    for one in found.features:
        typer.echo(f"  {one.view}.{one.feature}: {_skew_line(one)}")
    for one in found.aged:
        typer.echo(f"  had aged by the decision's moment: {one.feature}: {_skew_line(one)}")
    typer.echo(f"{found.decisions} decisions")
    for reason, number in found.left_out.items():
        typer.echo(f"  {number} left out, {reason}")
    _refuse_skew(found.skewed)


def _skew_line(one: FeatureSkew) -> str:
    line = f"{one.compared} compared, {one.equal} equal"
    if one.different:
        line += f", {one.different} different" + ("" if one.largest is None else f" by up to {one.largest:g}")
    line += f", {one.missing_online} missing online" if one.missing_online else ""
    line += f", {one.missing_offline} missing offline" if one.missing_offline else ""
    return line + (f"; such as {_whose(one, one.examples[0])} {_difference(one.examples[0])}" if one.examples else "")


def _whose(one: FeatureSkew, difference: Difference) -> str:
    return f"{'item' if one.view.startswith('item_') else 'user'} {difference.entity_id}"


def _difference(one: Difference) -> str:
    when = f"{one.at:%Y-%m-%d %H:%M:%S}"
    return f"at {when}: online {_shown(one.served)}, from the log {_shown(one.offline)}"


def _shown(value: FeatureValue) -> str:
    """Long lists cut short."""
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value[:_SHOWN]))}{', …' if len(value) > _SHOWN else ''}]"
    return "missing" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _refuse_skew(skewed: Sequence[FeatureSkew]) -> None:
    if not skewed:
        return
    whose = list(dict.fromkeys(_whose(one, each) for one in skewed for each in one.examples))
    raise LongtailError(
        f"training and serving differ in {', '.join(f'{one.view}.{one.feature}' for one in skewed)}, of "
        f"{', '.join(whose[:10])}{' and more' if len(whose) > 10 else ''}. Late events do that until the next build: "
        "run `longtail features build` and `longtail features materialize`; what differs after it is wrong online"
    )
