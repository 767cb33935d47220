from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from feature_repo.contract import EXPOSED_LENGTH
from feature_repo.events import Event
from feature_repo.settings import FeatureSettings
from feature_repo.tables import contacts
from tests.feature_repo.test_views import SETTINGS, activity, at, behavior, events_table, rows_of, spine_table, stats
from tests.feature_repo.world import NOW, event


def contacted(events: Sequence[Event]) -> dict[str, Any]:
    (row,) = rows_of(contacts.user_contacts(events_table(events), spine_table([("u1", NOW)]), SETTINGS))
    return row


def contact(event_id: str, channel: str, days: float, event_type: str = "contact") -> Event:
    return event(event_id, item_id="", event_type=event_type, surface=channel, event_time=at(days))


def test_contacts_are_counted_by_channel_in_the_windows_before_the_rows_time() -> None:
    row = contacted([contact("a", "push", 0.5), contact("b", "push", 6), contact("c", "email", 29), event("d")])
    assert row["channels"] == ["email", "push"]
    assert (row["contacts_1d"], row["contacts_7d"], row["contacts_30d"]) == ([0, 1], [0, 2], [1, 2])
    assert row["contact_channel_places"] == [1, 1, 0]  # push, push, email
    assert row["contact_gaps_s"] == [int(at(0.5).timestamp()), 5.5 * 86_400, 23 * 86_400]


def test_a_contact_at_the_rows_time_is_not_among_its_features() -> None:
    assert contacted([contact("a", "push", 0)])["channels"] == []


def test_the_last_choice_of_a_channel_counts_and_an_opt_out_wins_the_second() -> None:
    row = contacted(
        [
            contact("a", "push", 5, "opt_out"),
            contact("b", "push", 4, "opt_in"),
            contact("c", "email", 4, "opt_in"),
            contact("d", "email", 4, "opt_out"),
            contact("e", "", 9, "opt_out"),
        ]
    )
    assert row["opted_out_channels"] == ["", "email"]


def test_what_was_shown_in_vain_is_counted_since_the_last_engagement_with_it() -> None:
    def shown(event_id: str, item_id: str, days: float) -> Event:
        return event(event_id, item_id=item_id, event_type="exposure", event_time=at(days))

    row = contacted(
        [
            *[
                shown("a", "i1", 9),
                shown("b", "i1", 3),
                shown("c", "i1", 2),
                event("d", item_id="i1", event_time=at(5)),
            ],
            *[shown("e", "i2", 4), event("f", item_id="i2", event_time=at(1))],
            shown("g", "i3", 1),
        ]
    )
    assert (row["exposed_item_ids"], row["exposed_counts"]) == (["i3", "i1"], [1, 2])
    assert row["exposed_gaps_s"] == [int(at(1).timestamp()), 86_400]
    many = contacted([shown(f"{n:02}", f"i{n:02}", n + 1) for n in range(EXPOSED_LENGTH + 5)])
    assert many["exposed_item_ids"] == [f"i{n:02}" for n in range(EXPOSED_LENGTH)]


def test_contacts_are_no_activity_no_engagement_and_no_item() -> None:
    log = [event("v", event_time=at(50)), contact("a", "push", 1), contact("b", "push", 1, "opt_out")]
    assert activity(log)["u1"]["events"] == 1
    assert activity(log)["u1"]["state"] == "dormant"
    assert behavior(log)["history_item_ids"] == ["i1"]
    assert set(stats(log)) == {"i1"}


def test_a_contact_cannot_be_made_an_engagement() -> None:
    with pytest.raises(ValidationError, match="'contact' is 1; a contact is no engagement"):
        FeatureSettings(event_weights={"contact": 1.0})


def test_a_user_who_was_only_contacted_is_new(tmp_path: Any) -> None:
    assert activity([contact("a", "push", 1)], NOW + timedelta(days=1))["u1"]["state"] == "new"
