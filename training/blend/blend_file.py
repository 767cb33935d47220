"""The blend on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from training.blend.blend import Blend, Mix, Scales
from training.blend.neighbours import Neighbours


def save(blend: Blend, path: Path) -> None:
    """Writes the arrays; what they stand for is named in `blend`."""
    scales = blend.scales
    np.savez(
        path,
        neighbour_rows=blend.neighbours.rows,
        neighbour_values=blend.neighbours.values,
        popularity=blend.popularity,
        evidence_scale=scales.evidence,
        network_scale=scales.network,
        facts_mean=scales.facts_mean,
        facts_deviation=scales.facts_deviation,
        rank_weights=blend.rank.weights,
        rank_calibration=blend.rank.calibration,
        retrieve_weights=blend.retrieve.weights,
        retrieve_calibration=blend.retrieve.calibration,
        ridge=blend.ridge,
        users=blend.users,
        note=blend.note,
    )


def load(path: Path) -> Blend:
    """Reads what `save` wrote."""
    with np.load(path) as stored:
        return Blend(
            neighbours=Neighbours(rows=stored["neighbour_rows"], values=stored["neighbour_values"]),
            popularity=stored["popularity"],
            scales=Scales(
                evidence=stored["evidence_scale"],
                network=stored["network_scale"],
                facts_mean=stored["facts_mean"],
                facts_deviation=stored["facts_deviation"],
            ),
            rank=Mix(weights=stored["rank_weights"], calibration=stored["rank_calibration"]),
            retrieve=Mix(weights=stored["retrieve_weights"], calibration=stored["retrieve_calibration"]),
            ridge=float(stored["ridge"]),
            users=int(stored["users"]),
            note=str(stored["note"]),
        )
