"""Commands: who will come back."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cli.settings import Settings
    from training.returns.workflow import Trained


def register(app: typer.Typer) -> None:
    """Adds these commands to `longtail`."""
    app.command()(train_returns)


def train_returns(
    context: typer.Context,
    horizon_days: Annotated[float, typer.Option(min=1, max=366, help="A return is a visit within so many days.")] = 30,
    as_of: Annotated[
        str | None, typer.Option(help="Use only events before this moment, ISO, UTC without a zone. Default: all.")
    ] = None,
) -> None:
    """Learns who comes back, alone and when contacted, and writes every user's probabilities as the view user_returns.

    Without a contact: judged against BG/NBD at a later moment; where it is not better, BG/NBD's probabilities are
    written. With one: learnt from campaigns with a holdout in the decision log, and written when it orders users
    better than chance.

    Example: `longtail train-returns --horizon-days 30 && longtail features materialize`
    """
    from cli.features.moments import read_moment
    from training.returns.examples import open_returns
    from training.returns.rows import write_user_returns
    from training.returns.trials import read_trials
    from training.returns.workflow import train, with_uplift

    settings: Settings = context.obj
    until = None if as_of is None else read_moment("--as-of", as_of)
    reader = open_returns(settings.state.events, settings.features)
    trained = train(reader, horizon_days=horizon_days, as_of=until)
    trials = read_trials(reader, settings.state.decisions, horizon_days=horizon_days, until=trained.as_of)
    trained = with_uplift(trained, trials)
    now = datetime.now(UTC)
    version = int(now.strftime("%Y%m%d%H%M%S"))
    path = settings.state.features / "user_returns.parquet"
    write_user_returns(
        path,
        user_ids=trained.now.user_id,
        p_return=trained.p_return,
        p_return_contacted=trained.p_return_contacted,
        horizon_days=horizon_days,
        basis=trained.basis,
        version=version,
        now=now,
    )
    settings.state.training.mkdir(parents=True, exist_ok=True)
    report = settings.state.training / "returns.json"
    report.write_text(json.dumps(trained.report | {"version": version}, indent=2) + "\n")
    _show(trained)
    typer.echo(f"{report}")
    typer.echo(f"{path}: {len(trained.p_return)} users by {trained.basis}; next: `longtail features materialize`")


def _show(trained: Trained) -> None:
    judged = trained.report["judged"] or {}
    for name in ("return_model", "bgnbd"):
        if name in judged:
            one = judged[name]
            typer.echo(
                f"{name}: AUC {one['auc']:.4f}, log loss {one['log_loss']:.4f}, Brier {one['brier']:.4f}, "
                f"calibration error {one['calibration_error']:.4f}"
            )
    typer.echo(trained.report["reason"])
    uplift = trained.report["uplift"]
    if "mean_effect" in uplift:
        mean = uplift["mean_effect"]
        typer.echo(f"a contact changes the share who return by {_interval(mean)}, over {uplift['trials']} trials")
        for name, one in uplift["learners"].items():
            typer.echo(f"{name}: AUUC {_interval(one['auuc'])}, Qini {_interval(one['qini'])}")
    typer.echo(f"uplift: {uplift['reason']}")


def _interval(one: dict[str, float]) -> str:
    return f"{one['value']:+.4f} ({one['low']:+.4f} to {one['high']:+.4f})"
