"""What compression takes and gives on a catalogue so large that its tables are nearly all of the model.

    python -m training.benchmarks.compression [--items 200000] [--rounds 30] [--json FILE]

The catalogue is made up: items lie in groups, as trained vectors do, and their neighbours are of the same group. Times
and bytes are those of a real model of this size; how near the answers stay is that of these vectors. Quality is
measured on data, by `longtail evaluate --compressions`.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
import typer

from training.artifact import TrainedModel
from training.blend.blend import FACTS, POPULARITY_CHANNELS, Blend, Mix, Scales
from training.blend.neighbours import MATRICES, Neighbours, neighbours_kept
from training.fitting.blend_fitting import usual_mix
from training.log.popularity import POPULARITY_FEATURES
from training.model import build
from training.network.shape import ModelShape
from training.reports.compression_report import as_json, export_all, table, weigh
from training.vocabulary import FIRST_ROW

GROUP: Final = 50  # items in a group


def made_up(items: int, *, width: int, seed: int = 0) -> TrainedModel:
    """A model of the default shape whose items lie in groups."""
    rng = np.random.default_rng(seed)
    rows = items + FIRST_ROW
    shape = ModelShape(
        num_users=1, num_items=items, num_event_types=3, encoder="transformer", embedding_size=width, num_heads=8
    )
    recommender = build(shape)
    centres = rng.normal(0.0, 0.25, (-(-rows // GROUP), width))
    vectors = centres[np.arange(rows) // GROUP] + rng.normal(0.0, 0.15, (rows, width))
    recommender.items.embeddings.assign(vectors.astype(np.float32))
    popularity = rng.exponential(1.0, (rows, 1)) + rng.normal(0.0, 0.3, (rows, len(POPULARITY_CHANNELS)))
    return TrainedModel(
        version=1,
        recommender=recommender,
        item_ids=np.array([f"item-{number}" for number in range(items)], object),
        event_types=np.array(["view", "click", "purchase"], object),
        user_ids=np.array(["nobody"], object),
        popularity=popularity[:, : len(POPULARITY_FEATURES)].astype(np.float32),
        blend=_blend(rows, popularity.astype(np.float32), rng),
        window_us=(0, 1),
    )


def _blend(rows: int, popularity: np.ndarray, rng: np.random.Generator) -> Blend:
    """The usual weights over neighbours of which half are of the own group."""
    shape = rows, len(MATRICES), neighbours_kept(rows)
    own = np.arange(rows)[:, None, None] // GROUP * GROUP + rng.integers(0, GROUP, shape)
    near = np.where(rng.random(shape) < 0.5, own, rng.integers(FIRST_ROW, rows, shape))
    values = -np.sort(-rng.exponential(0.02, shape).astype(np.float32), axis=2)
    mixes: tuple[Mix, Mix] = usual_mix(with_head=True), usual_mix(with_head=False)
    return Blend(
        neighbours=Neighbours(rows=np.minimum(near, rows - 1).astype(np.int32), values=values),
        popularity=popularity,
        scales=Scales(
            evidence=np.full((len(MATRICES), 3), 0.1, np.float32),
            network=np.ones(2, np.float32),
            facts_mean=np.zeros(len(FACTS), np.float32),
            facts_deviation=np.ones(len(FACTS), np.float32),
        ),
        rank=mixes[0],
        retrieve=mixes[1],
        ridge=0.0,
        users=0,
    )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m training.benchmarks.compression", description=__doc__)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--embedding-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", type=Path, help="Also write the numbers there.")
    given = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    model = made_up(given.items, width=given.embedding_size)
    with TemporaryDirectory(prefix="longtail-compressions-") as scratch:
        variants = weigh(model, export_all(model, Path(scratch)), rounds=given.rounds)
    typer.echo(f"{given.items:,} items of {given.embedding_size} numbers, {given.rounds} rounds\n{table(variants)}")
    if given.json:
        given.json.write_text(json.dumps(as_json(variants), indent=2) + "\n")


if __name__ == "__main__":
    main()
