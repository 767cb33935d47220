"""The blend's weights for people: what each part counts for users of a kind."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from training.blend import CHANNELS, Blend

# Facts, standardised: always, history, gap, empty.
KINDS: Final = {
    "usual": (1.0, 0.0, 0.0, 0.0),
    "short history": (1.0, -1.0, 0.0, 0.0),
    "long history": (1.0, 1.0, 0.0, 0.0),
    "long away": (1.0, 0.0, 1.0, 0.0),
    "no history": (1.0, 0.0, 0.0, 1.0),
}


def blend_table(blend: Blend) -> dict[str, Any]:
    """For report and model card: each channel's weight in `rank` for a user of each kind, as JSON."""
    weights = blend.rank.weights @ np.array(list(KINDS.values()), np.float32).T  # [channels, kinds]
    return {
        "users": blend.users,
        "ridge": blend.ridge,
        "note": blend.note,
        "kinds": list(KINDS),
        "channels": [
            {"name": name, "weights": [round(float(value), 3) for value in row]}
            for name, row in zip(CHANNELS, weights, strict=True)
        ],
    }
