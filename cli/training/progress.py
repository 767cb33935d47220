"""Progress of a training run on the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from training.fitting.progress import Epoch
from training.fitting.progress import Progress as TrainingProgress


@contextmanager
def shown() -> Iterator[TrainingProgress]:
    """A bar for the current phase, and a line for each epoch that stays."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        tasks: list[TaskID] = []

        def on_phase(name: str, epochs: int) -> None:
            for task in tasks:
                bars.remove_task(task)
            tasks[:] = [bars.add_task(name, total=None)]
            console.print(f"{name}: up to {epochs} epochs" if epochs else name)

        def on_step(done: int, total: int) -> None:
            bars.update(tasks[-1], completed=done, total=total)

        def on_epoch(epoch: Epoch) -> None:
            score = epoch.validation_ndcg
            validation = "" if score is None else f", validation NDCG@10 {score:.4f}"
            console.print(f"  epoch {epoch.epoch}: loss {epoch.loss:.4f}{validation}")

        yield TrainingProgress(on_phase=on_phase, on_epoch=on_epoch, on_step=on_step, on_note=console.print)
