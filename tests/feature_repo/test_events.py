from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from feature_repo.events import refusal
from tests.feature_repo.world import NOW, event


@pytest.mark.parametrize("user_id", ["u", "x" * 256, "日本語", "a\x00b", "🦆" * 64, " "])
def test_an_id_of_any_script_up_to_256_bytes_is_taken(user_id: str) -> None:
    assert refusal(event(user_id=user_id), now=NOW) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"event_id": ""}, "event_id is empty"),
        ({"event_id": "x" * 129}, "129 bytes; at most 128"),
        ({"user_id": ""}, "user_id is empty"),
        ({"user_id": "x" * 10_000}, "10000 bytes; at most 256"),
        ({"item_id": ""}, "item_id is empty"),
        ({"item_id": "é" * 129}, "258 bytes"),
        ({"item_id": "\ud800"}, "lone surrogate"),
        ({"event_type": "Add To Cart"}, "lower_snake_case"),
        ({"event_type": "view\n"}, "lower_snake_case"),
        ({"event_type": "v" * 65}, "lower_snake_case"),
        ({"event_time": datetime(2099, 1, 1, tzinfo=UTC)}, "after now"),
        ({"event_time": datetime(1969, 12, 31, tzinfo=UTC)}, "before 1970"),
        ({"event_time": datetime(2026, 1, 1)}, "no time zone"),
        ({"value": float("nan")}, "finite"),
        ({"surface": "x" * 129}, "surface has 129 bytes"),
    ],
)
def test_a_bad_event_is_refused_with_what_is_allowed(changes: dict[str, Any], words: str) -> None:
    assert words in str(refusal(event(**changes), now=NOW))


@pytest.mark.parametrize("event_type", ["contact", "opt_out", "opt_in"])
def test_a_contact_and_a_choice_of_channels_need_no_item(event_type: str) -> None:
    assert refusal(event(event_type=event_type, item_id="", surface="push"), now=NOW) is None


def test_an_event_of_1970_and_one_a_little_in_the_future_are_taken() -> None:
    assert refusal(event(event_time=datetime(1970, 1, 1, tzinfo=UTC)), now=NOW) is None
    assert refusal(event(event_time=NOW + timedelta(hours=23)), now=NOW) is None
