"""What the catalogue says of the items, as TF-IDF vectors: words of title and text, categories, the price's decile."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
from sklearn.feature_extraction.text import TfidfVectorizer

from training.vocabulary import FIRST_ROW

MAX_TERMS = 20_000
UNSPACED: Final = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]{2,}")
"""Thai, Lao, Burmese, Khmer, kana and Han: no spaces part their words, so that pairs of letters stand for them."""
FIELDS = ["item_id", "title", "categories", "text", "price"]


class ItemVectors(NamedTuple):
    """TF-IDF of items."""

    values: sp.csr_array  # float32 [rows, terms], each of length 1, or 0 where the catalogue says nothing
    terms: np.ndarray  # str [terms]


def item_vectors(catalogue: Path | None, item_ids: np.ndarray) -> ItemVectors:
    """No terms without a catalogue."""
    rows = FIRST_ROW + len(item_ids)
    nothing = ItemVectors(sp.csr_array(np.zeros((rows, 0), np.float32)), np.array([], str))
    if catalogue is None or not catalogue.exists():
        return nothing
    items = pd.read_parquet(catalogue, columns=FIELDS).drop_duplicates("item_id").set_index("item_id")
    items = items.reindex(item_ids.astype(str))
    items["decile"] = _decile(items["price"])
    terms = [_terms(*row) for row in items[["title", "categories", "text", "decile"]].itertuples(index=False)]
    if sum(bool(words) for words in terms) < 2:
        return nothing
    vectorizer = TfidfVectorizer(analyzer=lambda words: words, min_df=2, max_df=0.5, max_features=MAX_TERMS)
    try:
        known = vectorizer.fit_transform(terms).astype(np.float32)
    except ValueError:  # every term is on one item alone, or on most
        return nothing
    values = sp.csr_array(sp.vstack([sp.csr_array(np.zeros((FIRST_ROW, known.shape[1]), np.float32)), known]))
    return ItemVectors(values, vectorizer.get_feature_names_out().astype(str))


def items_without(catalogue: Path | None, item_ids: np.ndarray) -> np.ndarray:
    """Ids of the catalogue's items that are not withdrawn and not among these, in order."""
    if catalogue is None or not catalogue.exists():
        return np.array([], object)
    items = pd.read_parquet(catalogue, columns=["item_id", "withdrawn"])
    offered = items["item_id"][~items["withdrawn"].fillna(False).astype(bool)]
    return np.setdiff1d(offered.to_numpy(str), item_ids.astype(str)).astype(object)


def _terms(title: object, categories: object, text: object, decile: float) -> list[str]:
    """The words, with the field in front where a word means another thing there."""
    texts = [part.lower() for part in (title, text) if isinstance(part, str)]
    words = [word for part in texts for word in part.split() if len(word) > 1]
    words += [run[at : at + 2] for part in texts for run in UNSPACED.findall(part) for at in range(len(run) - 1)]
    if isinstance(categories, np.ndarray):
        words += [f"category={category}" for category in categories if category]
    return words + ([f"price={int(decile)}"] if np.isfinite(decile) else [])


def _decile(price: pd.Series) -> pd.Series:
    """0 to 9, NaN where there is no price."""
    return (price.astype(np.float64).rank(pct=True) * 10).clip(upper=9.0).apply(np.floor)
