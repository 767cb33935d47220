"""Commands: `longtail features`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from feature_repo.errors import LongtailError

if TYPE_CHECKING:
    from cli.settings import Settings
    from feature_repo.checks.quality import QualityReport
    from feature_repo.checks.skew_tally import Difference, FeatureSkew
    from feature_repo.contract import FeatureValue

group = typer.Typer(help="Make features and serve them.", no_args_is_help=True, rich_markup_mode="markdown")

_SHOWN = 5
_UNIT_S = {"day": 86_400, "h": 3600, "min": 60, "s": 1}


def register(app: typer.Typer) -> None:
    """Adds these commands to `longtail`."""
    app.add_typer(group, name="features")


@group.command()
def build(
    context: typer.Context,
    as_of: Annotated[
        str | None, typer.Option(help="The moment the features hold for, ISO, UTC without a zone. Default: now.")
    ] = None,
    engine: Annotated[str, typer.Option(help="duckdb, on this machine; spark, beyond it.")] = "duckdb",
    incremental: Annotated[
        bool,
        typer.Option("--incremental", help="Read the events of users with news only; the tables are a full build's."),
    ] = False,
) -> None:
    """Compute the feature tables from the event log.

    `--incremental` goes on from the last build. Where it cannot, it builds in full and says why.

    Example: `longtail features build --as-of 2026-03-01`
    """
    if engine not in ("duckdb", "spark"):
        raise typer.BadParameter(f"--engine is {engine!r}; give duckdb or spark")
    if engine == "spark" and incremental:
        raise typer.BadParameter("--incremental is for --engine duckdb; on spark give one of them")
    from cli.data import reporting
    from feature_repo.tables.build import build as build_in_full
    from feature_repo.tables.incremental import build_incremental
    from feature_repo.tables.spark_engine import build_on_spark

    settings: Settings = context.obj
    moment = datetime.now(UTC) if as_of is None else read_moment("--as-of", as_of)
    with reporting() as report:
        build_features = build_on_spark if engine == "spark" else build_incremental if incremental else build_in_full
        summary = build_features(settings.state, settings.features, as_of=moment, report=report)
    if summary.full_because:
        typer.echo(f"built in full: {summary.full_because}")
    if summary.changed_users is not None:
        typer.echo(f"{summary.changed_users} users changed since the last build")
    typer.echo(f"features as of {summary.as_of:%Y-%m-%d %H:%M:%S} UTC")
    for view, rows in summary.rows.items():
        typer.echo(f"  {view}: {rows} rows")
    typer.echo("  users: " + ", ".join(f"{count} {state}" for state, count in summary.states.items()))


@group.command()
def backfill(
    context: typer.Context,
    *,
    first: Annotated[str, typer.Option("--from", help="The first moment, ISO, UTC without a zone.")],
    last: Annotated[str, typer.Option("--to", help="The last moment, likewise.")],
    out: Annotated[Path, typer.Option(help="A folder for VIEW/moment=MOMENT/rows.parquet.")],
    every: Annotated[str, typer.Option(help="How far apart the moments are: 1d, 12h, 30min, 90s.")] = "1d",
    view: Annotated[list[str] | None, typer.Option(help="Of this view only; may be repeated. Default: all.")] = None,
) -> None:
    """Compute the feature tables of every moment of a range, as `features build --as-of` would.

    What is served stays as it is. Run it again after a kill, or with a longer range: moments that are finished are
    kept; those that late events, an erasure or other settings have changed since are computed anew.

    Example: `longtail features backfill --from 2026-01-01 --to 2026-03-01 --out past`
    """
    from cli.data import reporting
    from feature_repo.tables import backfill as past
    from feature_repo.tables.build import BUILT

    settings: Settings = context.obj
    known = {one.name: one for one in BUILT}
    if unknown := [name for name in view or () if name not in known]:
        raise typer.BadParameter(f"--view is {unknown[0]!r}; give any of {', '.join(known)}")
    wanted = tuple(known[name] for name in dict.fromkeys(view or known))
    asked = past.Range(
        first=read_moment("--from", first), last=read_moment("--to", last), every=_read_interval("--every", every)
    )
    moments, now = [], datetime.now(UTC)
    with reporting() as report:
        for moment in past.backfill(
            settings.state, settings.features, asked, out, now=now, wanted=wanted, report=report
        ):
            moments.append(moment)
            if moment.rows:
                rows = ", ".join(f"{name} {count}" for name, count in moment.rows.items())
                why = f" ({moment.because})" if moment.because else ""
                typer.echo(f"  {moment.as_of:%Y-%m-%d %H:%M:%S} UTC: {rows}{why}")
    computed, before = sum(bool(one.rows) for one in moments), sum(one.is_before_all for one in moments)
    typer.echo(
        f"{out}: {len(moments)} moments: {computed} computed, {len(moments) - computed - before} kept as they were, "
        f"{before} before the first event"
    )


@group.command("training-set")
def training_set(
    context: typer.Context,
    rows: Annotated[
        str,
        typer.Argument(metavar="ROWS", help="Parquet: user_id, item_id or both, event_timestamp, what else you like."),
    ],
    out: Annotated[Path, typer.Option(help="A folder for training_set.parquet and the views' tables.")],
    view: Annotated[
        list[str] | None, typer.Option(help="Of this view only; may be repeated. Default: all but item_neighbors.")
    ] = None,
) -> None:
    """Join to each row every feature as it was at the row's time, from events before it.

    Rows keep their order and columns; features are named VIEW__FEATURE. Of items, and where a user's feature depends
    on all users, the value is that of the midnight (UTC) before, as a nightly build would have left it.

    Example: `longtail features training-set labels.parquet --out set`
    """
    from cli.data import reporting
    from feature_repo.log.pseudonyms import open_pseudonyms
    from feature_repo.tables.training_set import write_training_set

    settings: Settings = context.obj
    with reporting() as report:
        summary = write_training_set(
            settings.state,
            settings.features,
            rows,
            out,
            wanted=view or (),
            pseudonyms=open_pseudonyms(settings.features.pseudonym_key_file),
            report=report,
        )
    typer.echo(f"{summary.file}: {summary.rows} rows with {', '.join(summary.views)}")


@group.command()
def apply(context: typer.Context) -> None:
    """Register the feature views with Feast and make the online store.

    Example: `longtail features apply`
    """
    from feature_repo.online.store import apply as apply_views

    settings: Settings = context.obj
    views = apply_views(settings.state, settings.features)
    typer.echo(f"{settings.state.feast / 'feature_store.yaml'}: {', '.join(views)} ({settings.features.online_store})")


@group.command()
def materialize(
    context: typer.Context,
    full: Annotated[
        bool, typer.Option("--full", help="From the first row, also when an earlier run was broken off.")
    ] = False,
    since: Annotated[
        str | None, typer.Option(help="Only rows computed at this time or later, ISO, UTC without a zone.")
    ] = None,
    accept: Annotated[
        str | None, typer.Option(help="Load tables that break a rule too; the reason is kept on record.")
    ] = None,
) -> None:
    """Check the feature tables, load them into the online store, and read the rows back.

    Tables that break a rule (`longtail features validate`) are not loaded, unless `--accept REASON` is given.
    Every user and item, however old. Of a row that feedback has brought up to date since the build, only the columns
    that feedback does not know are written. A run that was broken off is gone on with.

    Example: `longtail features materialize`
    """
    if full and since is not None:
        raise typer.BadParameter("give --full or --since, not both")
    from cli.data import reporting
    from feature_repo.checks import quality
    from feature_repo.online.materialize import materialize as load
    from feature_repo.online.materialize import memory_advice
    from feature_repo.online.store import open_store

    settings: Settings = context.obj
    moment = None if since is None else read_moment("--since", since)
    store = open_store(settings.state, settings.features)
    found = quality.gate(settings.state, settings.features.quality, accept=accept, now=datetime.now(UTC))
    _show_quality(found)
    with reporting() as report:
        done = load(
            settings.state,
            store,
            since=moment,
            full=full,
            limits=settings.features.materialize,
            report=report,
        )
    quality.remember(settings.state, found)
    for view in done:
        notes = f", {view.kept} newer kept" if view.kept else ""
        notes += f", {view.older} older than --since" if view.older else ""
        notes += f"; the first {view.resumed_at} by the run that was broken off" if view.resumed_at else ""
        typer.echo(f"  {view.view}: {view.written} of {view.rows} rows written{notes}")
    if advice := memory_advice(settings.state, store):
        typer.echo(f"note: {advice}", err=True)


@group.command()
def validate(context: typer.Context) -> None:
    """Check the feature tables: types, ranges, lists that go together, rows lost, drift. Exits 1 when a rule is broken.

    Drift is against the tables last loaded online. What was found is also in `features/.build/quality.json`.

    Example: `longtail features validate`
    """
    from feature_repo.checks import quality

    settings: Settings = context.obj
    found = quality.validate(settings.state, settings.features.quality)
    _show_quality(found)
    quality.refuse(found)
    typer.echo(f"{len(found.tables)} tables, {sum(table.rules for table in found.tables)} rules: all hold")


def _show_quality(found: QualityReport) -> None:
    for broken in found.broken:
        typer.echo(f"  {broken}")
    for drift in found.drifted:
        typer.echo(f"  drift: {drift}")


@group.command()
def check(context: typer.Context) -> None:
    """Compare the feature tables with the online store: row counts and freshness. Exits 1 when they differ.

    Example: `longtail features check`
    """
    from feature_repo.online.materialize import check as compare
    from feature_repo.online.store import open_store

    settings: Settings = context.obj
    now = datetime.now(UTC)
    found = compare(settings.state, open_store(settings.state, settings.features))
    for view in found:
        if view.offline_rows is None:
            typer.echo(f"  {view.view}: not built")
            continue
        typer.echo(
            f"  {view.view}: {view.offline_rows} rows offline, newest {_age(now, view.newest)} old; of "
            f"{view.counted} read online {view.missing} missing, {view.older} older than offline, "
            f"oldest {_age(now, view.oldest_online)} old"
        )
    differing = [view.view for view in found if not view.agrees]
    if differing:
        raise LongtailError(f"offline and online differ in {', '.join(differing)}; run `longtail features materialize`")
    if all(view.offline_rows is None for view in found):
        raise LongtailError(f"nothing is built in {settings.state.features}; run `longtail features build`")


@group.command()
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


@group.command()
def erase(context: typer.Context, *, user: Annotated[str, typer.Option("--user", "-u", help="The user's id.")]) -> None:
    """Forget a user: in the event log, the tables, the online store, the decision log and the per-user weights.

    Prints what was removed where, and writes the proof to `erasures/`. What the user did before does not come back,
    also when it is imported again. Safe to repeat.

    Example: `longtail features erase --user 42`
    """
    from feature_repo.log.pseudonyms import open_pseudonyms
    from feature_repo.privacy.erasure import erase_user

    settings: Settings = context.obj
    pseudonyms = open_pseudonyms(settings.features.pseudonym_key_file)
    user_id = user if pseudonyms is None else pseudonyms.of(user)
    proof = erase_user(settings.state, settings.features, user_id, now=datetime.now(UTC))
    for removal in proof.removed:
        if removal.count:
            typer.echo(f"  {removal.holder}, {removal.part}: {removal.count}")
    typer.echo(f"removed {sum(removal.count for removal in proof.removed)} in all; a second look found nothing")
    for reason in proof.kept:
        typer.echo(f"  stays: {reason}")
    typer.echo(f"proof: {proof.file}")


def read_moment(option: str, given: str) -> datetime:
    try:
        moment = datetime.fromisoformat(given)
    except ValueError as error:
        raise typer.BadParameter(f"{option} is {given!r}; give ISO, such as 2026-03-01 or 2026-03-01T12:00") from error
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _read_interval(option: str, given: str) -> timedelta:
    found = re.fullmatch(r"(\d+)\s*(d|h|min|s)", given.strip())
    if found is None:
        raise typer.BadParameter(f"{option} is {given!r}; give a number and d, h, min or s, such as 1d or 12h")
    try:
        return timedelta(seconds=int(found[1]) * {"d": 86_400, **_UNIT_S}[found[2]])
    except OverflowError as error:
        raise typer.BadParameter(f"{option} is {given!r}, longer than any log") from error


def _age(now: datetime, moment: datetime | None) -> str:
    if moment is None:
        return "–"
    seconds = (now - moment).total_seconds()
    unit = next((unit for unit, size in _UNIT_S.items() if seconds >= 2 * size), "s")
    return f"{seconds / _UNIT_S[unit]:.0f} {unit}"
