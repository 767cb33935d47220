"""How the large tables of a model are written small. What is kept is decoded in the graph, after the gather.

    float16    half precision                                     relative error 2⁻¹¹ at most
    int8       x ≈ c · s, c of −127..127, a scale s for each row   absolute error s / 2
               neighbours' values: x ≈ (c / 255)² · s, c of 0..255: all above 0, and the small ones matter
    pq         items' vectors: four numbers at a time by the nearest of 256 that k-means found, and a scale for each
               row, after Jégou, Douze, Schmid. Product Quantization for Nearest Neighbor Search. TPAMI 2011; the rest
               as int8

The rows that neighbours are kept by lose nothing: two bytes hold a row of a catalogue up to 65,536, three one of 16 M.
No TensorFlow here.
"""

from __future__ import annotations

from typing import Final, Literal

import numpy as np

Compression = Literal["none", "float16", "int8", "pq"]
COMPRESSIONS: Final[tuple[Compression, ...]] = ("none", "float16", "int8", "pq")
BYTE: Final = 255
SIGNED_BYTE: Final = 127
LOW_BITS: Final = 16
PART: Final = 4  # numbers that have one code
CODES: Final = 256
ROWS_TO_LEARN_FROM: Final = 20_000


def halves(values: np.ndarray) -> np.ndarray:
    """Half precision; what is too large for it becomes the largest there is.

    >>> halves(np.array([0.1, 1e6], np.float32)).tolist()
    [0.0999755859375, 65504.0]
    """
    largest = np.finfo(np.float16).max
    return np.asarray(np.clip(values, -largest, largest), np.float16)


def signed_bytes(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes int8 [..., width] and a scale float32 [..., 1] for each row.

    >>> codes, scale = signed_bytes(np.array([[-0.5, 0.25, 0.0], [0.0, 0.0, 0.0]], np.float32))
    >>> codes.tolist()
    [[-127, 64, 0], [0, 0, 0]]
    """
    scale = _scale(np.abs(values), SIGNED_BYTE)
    return np.rint(values / scale).astype(np.int8), scale


def root_bytes(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes uint8 [..., width] of the roots of values from 0 on, and a scale float32 [..., 1]; only 0 becomes 0.

    >>> codes, scale = root_bytes(np.array([[1.0, 0.25, 1e-9, 0.0]], np.float32))
    >>> codes.tolist()
    [[255, 128, 1, 0]]
    """
    scale = _scale(values, 1)
    codes = np.maximum(np.rint(np.sqrt(values / scale) * BYTE), values > 0)
    return codes.astype(np.uint8), scale


def product_codes(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes uint8 [rows, parts], a scale float32 [rows, 1] and what the codes stand for, float32 [parts, 256, 4].

    Rows are coded at length 1, so that long vectors and short ones are as well told apart; the scale is the one that
    brings what was coded nearest to the row.
    """
    rows, width = values.shape
    parts = -(-width // PART)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    padded = np.pad(values / np.maximum(length, 1e-12), ((0, 0), (0, parts * PART - width)))
    split = padded.reshape(rows, parts, PART).astype(np.float32)
    learnt = [_nearest_codes(split[:, part]) for part in range(parts)]
    codes = np.stack([found for found, _ in learnt], axis=1).astype(np.uint8)
    books = np.stack([book for _, book in learnt])
    decoded = books[np.arange(parts), codes].reshape(rows, -1)[:, :width]
    likeness, size = (decoded * values).sum(axis=1, keepdims=True), np.square(decoded).sum(axis=1, keepdims=True)
    return codes, np.where(size > 0, likeness / np.maximum(size, 1e-12), 0.0).astype(np.float32), books


def _nearest_codes(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The code of each of these vectors [rows, 4], and what codes stand for [256, 4]."""
    from sklearn.cluster import KMeans  # slow to import

    rng = np.random.default_rng(0)
    sample = vectors[rng.permutation(len(vectors))[:ROWS_TO_LEARN_FROM]]
    count = min(CODES, len(np.unique(sample, axis=0)))
    means = KMeans(count, n_init=1, max_iter=25, random_state=0).fit(sample)
    book = np.zeros((CODES, PART), np.float32)
    book[:count] = means.cluster_centers_
    return means.predict(vectors), book


def planes(numbers: np.ndarray) -> tuple[np.ndarray, ...]:
    """Numbers from 0 on by their low two bytes, and where that is not all the bytes above.

    >>> [plane.tolist() for plane in planes(np.array([7, 65_543]))]
    [[7, 7], [0, 1]]
    >>> [plane.dtype.name for plane in planes(np.array([7, 65_535]))]
    ['uint16']
    """
    low, high = (numbers & (2**LOW_BITS - 1)).astype(np.uint16), numbers >> LOW_BITS
    if not high.any():
        return (low,)
    return low, high.astype(np.min_scalar_type(high.max()))


def _scale(sizes: np.ndarray, codes: int) -> np.ndarray:
    """Of each row, so that its largest has the largest code; a row of zeros has any."""
    largest = sizes.max(axis=-1, keepdims=True, initial=0.0)
    return np.where(largest > 0, largest / codes, 1.0).astype(np.float32)
