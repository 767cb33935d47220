"""What the pages show of an answer."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration

from console import tables
from longtail.activation.v1 import activation_pb2 as pb


def ranking(*item_ids: str) -> pb.RankItemsResponse:
    items = [pb.RankedItem(item_id=item, rank=rank, score=0.5) for rank, item in enumerate(item_ids, start=1)]
    return pb.RankItemsResponse(items=items)


def test_every_item_of_both_rankings_is_compared_once() -> None:
    lines = tables.compared_lines(ranking("a", "b", "c"), ranking("b", "a", "d"))
    moved = {line["item"]: line["moved"] for line in lines}
    assert moved == {"a": "down 1 in B", "b": "up 1 in B", "c": "only in A", "d": "only in B"}
    assert [line["item"] for line in lines] == ["a", "b", "c", "d"]


def test_only_terms_that_change_a_value_are_told() -> None:
    reasons = [
        pb.Reason(term="relevance", term_value=0.25, weight=1),
        pb.Reason(term="fatigue", term_value=1, weight=1),
        pb.Reason(term="diversity", term_value=0.5, weight=0),
    ]
    assert tables.why(pb.RankedItem(reasons=reasons, is_exploration=True)) == "explored; relevance 0.250^1"
    assert tables.why(pb.RankedItem()) == ""


def test_an_unknown_user_has_facts_too() -> None:
    facts = dict(tables.state_facts(pb.UserState(state=pb.LIFECYCLE_NEW)))
    assert facts["state"] == "new"
    assert facts["last seen"] == "never"
    assert facts["probability of being alive"] == tables.NONE


def test_ages_are_in_the_unit_that_reads_best() -> None:
    ages = [5, 90, 7200, 172_800]
    groups = [pb.FeatureStatus(group="v", status=pb.FeatureStatus.STATUS_FRESH, age=Duration(seconds=s)) for s in ages]
    assert [line["age"] for line in tables.feature_lines(groups)] == ["5 s", "1.5 min", "2.0 h", "2.0 d"]
    assert tables.feature_lines([pb.FeatureStatus(group="v")])[0]["age"] == tables.NONE
