"""The view `item_neighbors` as an Ibis expression: by co-occurrence, and by content so that a new item has some.

All sums are of whole numbers (millionths), so that no order of adding changes a score, on any engine.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

import ibis
from ibis import _

from feature_repo.contract import NEIGHBOR_LENGTH
from feature_repo.settings import FeatureSettings
from feature_repo.tables import facts
from feature_repo.tables.expressions import complete, lists, moment

KEYS: Final = ["item_id"]
SCALE: Final = 1_000_000
SHRINKAGE: Final = 10.0  # a pair that two users share is little evidence
TOKENS: Final = 20  # the most telling words of an item that count
POSTINGS: Final = 200  # the items that a word is looked up in


def item_neighbors(events: ibis.Table, items: ibis.Table, as_of: datetime, settings: FeatureSettings) -> ibis.Table:
    """(item_id, as_of) → the features of `contract.ITEM_NEIGHBORS`, for every item of the catalogue or the log."""
    return item_neighbors_rows(
        facts.pairs(facts.prepare(events.filter(events.event_time < moment(as_of)), settings)), items, as_of, settings
    )


def item_neighbors_rows(pairs: ibis.Table, items: ibis.Table, as_of: datetime, settings: FeatureSettings) -> ibis.Table:
    """The same from `facts.pairs`."""
    spine = items.select("item_id").union(pairs.select("item_id"), distinct=True).mutate(as_of=moment(as_of))
    together = _best(_together(pairs, settings), "neighbor_item_ids", "neighbor_scores")
    return complete(spine, [together, _best(_alike(items), "content_item_ids", "content_scores")], KEYS)


def _together(pairs: ibis.Table, settings: FeatureSettings) -> ibis.Table:
    """(item, other) → cosine of the users who engaged with both, shrunk: Σ_u c_u / (√(n_i n_j) + SHRINKAGE).

    c_u = 1 / √(items of u that count), so that one user of everything does not bind all items together.
    Only a user's last `neighbor_history` items count, which bounds the pairs.
    """
    engaged = pairs.filter(pairs.engaged_us.notnull())
    place = ibis.row_number().over(group_by="user_id", order_by=[ibis.desc("engaged_us"), ibis.asc("item_id")])
    recent = engaged.mutate(place=place).filter(_.place < settings.neighbor_history).select("user_id", "item_id")
    size = recent.count().over(group_by="user_id")
    mine = recent.mutate(share=(SCALE / size.cast("float64").sqrt()).round().cast("int64"))
    users = mine.group_by("item_id").agg(users=_.share.sum().cast("int64"))
    other = mine.select("user_id", other_id="item_id")
    both = mine.join(other, "user_id").filter(_.item_id != _.other_id)
    both = both.group_by(["item_id", "other_id"]).agg(shared=_.share.sum().cast("int64"))
    both = both.join(users, "item_id").join(users.select(other_id="item_id", others="users"), "other_id")
    norm = (_.users.cast("float64") * _.others.cast("float64")).sqrt()
    return both.select("item_id", "other_id", score=_.shared / (norm + SHRINKAGE * SCALE))


def _alike(items: ibis.Table) -> ibis.Table:
    """(item, other) → cosine of their TF-IDF vectors over the words of title, text and categories."""
    words = _words(items)
    size = items.agg(items=_.count())
    known_in = words.group_by("word").agg(known_in=_.count())
    weighed = words.join(known_in.filter(_.known_in > 1), "word").cross_join(size)
    tf_idf = (1 + _.times.cast("float64").ln()) * (_["items"].cast("float64") / _.known_in).ln()
    weighed = weighed.mutate(weight=(tf_idf * SCALE).round().cast("int64")).filter(_.weight > 0)
    rank = ibis.row_number().over(group_by="item_id", order_by=[ibis.desc("weight"), ibis.asc("word")])
    telling = weighed.mutate(rank=rank).filter(_.rank < TOKENS).select("item_id", "word", "weight")
    square = (_.weight.cast("float64") * _.weight).sum().over(group_by="item_id")
    unit = telling.mutate(unit=(_.weight * SCALE / square.sqrt()).round().cast("int64"))
    place = ibis.row_number().over(group_by="word", order_by=[ibis.desc("unit"), ibis.asc("item_id")])
    postings = unit.mutate(place=place).filter(_.place < POSTINGS).select("word", other_id="item_id", other="unit")
    both = unit.join(postings, "word").filter(_.item_id != _.other_id)
    both = both.group_by(["item_id", "other_id"]).agg(shared=(_.unit * _.other).sum().cast("int64"))
    return both.select("item_id", "other_id", score=_.shared / (float(SCALE) * SCALE))


def _words(items: ibis.Table) -> ibis.Table:
    """(item, word) → how often it stands there. A category is one word, whatever its spaces."""
    written = items.title.fill_null("") + " " + items.text.fill_null("")
    word = written.lower().re_split(r"[^\p{L}\p{N}]+").unnest()
    categories = items.select("item_id", category=items.categories.unnest())
    categories = categories.select("item_id", word=ibis.literal("category: ") + categories.category)
    words = items.select("item_id", word=word).filter(_.word != "").union(categories)
    return words.group_by(["item_id", "word"]).agg(times=_.count())


def _best(scored: ibis.Table, ids: str, scores: str) -> ibis.Table:
    scored = scored.mutate(score=_.score.cast("float32"))
    place = ibis.row_number().over(group_by="item_id", order_by=[ibis.desc("score"), ibis.asc("other_id")])
    best = scored.mutate(place=place).filter((_.place < NEIGHBOR_LENGTH) & (_.score > 0))
    return lists(best, order="place", keys=KEYS, **{ids: best.other_id, scores: best.score})
