"""The overview's parts: marks on the time line, cards as bars, what needs attention."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from stepserve.client.results import Job, PastActivation
from tests.ui.control_server import ACTIVE, ControlServer
from tests.ui.page import cells, opened, words
from tests.ui.ui_server import EARLY, LINES, MODEL, UiServer
from ui import card_bars, timeline

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
CARD = {
    "name": "H200", "memory_used_mb": 30_000, "memory_total_mb": 140_000, "power_draw_w": 214.4, "power_limit_w": 700,
    "temperature_gpu": 41,
}  # fmt: skip


def test_marks_are_of_everything_that_changed_what_answers_the_newest_first() -> None:
    switch = PastActivation(
        status="done", id="b", previous="a", activation_id=1, cause="request", paused_ms=42.0, finished_at=NOON
    )
    failed = PastActivation(
        status="failed", id="c", previous="b", activation_id=2, cause="request", started_at=NOON + timedelta(hours=1)
    )
    running = PastActivation(status="running", id="d", activation_id=3, started_at=NOON + timedelta(hours=2))
    old = PastActivation(status="done", id="a", activation_id=0, finished_at=NOON - timedelta(days=3))
    promotion = Job(
        id="promotion_1",
        type="promotion",
        status="done",
        model_id="b",
        completed_at=NOON + timedelta(minutes=1),
        result={"decision": "rolled_back"},
    )
    told: list[dict[str, Any]] = [
        {"at": (NOON + timedelta(minutes=2)).isoformat(), "kind": "death", "model": "b", "said": None},
        {"at": (NOON + timedelta(minutes=3)).isoformat(), "kind": "push", "model": "b", "said": "version 4"},
    ]
    rows = timeline.marks([running, failed, switch, old], [promotion], told, NOON - timedelta(hours=1))
    assert [(row["kind"], row["said"]) for row in rows] == [
        ("activation", "c failed (request)"),
        ("push", "b: version 4"),
        ("death", "b died"),
        ("promotion", "b: rolled back"),
        ("activation", "a → b (request, paused for 42 ms)"),
    ]


def test_a_cards_bar_is_weights_cache_and_free() -> None:
    weights = 8_000 * 1024**2
    parts = {row["what"]: row["GB"] for row in card_bars.parts(0, CARD, weights)}
    assert parts["weights"] == pytest.approx(8_000 * 1024**2 / 1e9)
    assert sum(parts.values()) == pytest.approx(140_000 * 1024**2 / 1e9)
    assert card_bars.words(0, CARD, weights) == "card 0, H200: weights 8.39 GB, free 115 GB; 214 of 700 W, 41 °C"
    assert card_bars.parts(0, CARD, 10**15)[1]["GB"] == 0, "weights are no larger than what is used"


def test_a_failed_switch_needs_attention_and_is_on_the_time_line(
    bare_control: ControlServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_URL", bare_control.url)
    bare_control.add("torn", 0.9)
    bare_control.gateway.fail_with = "its weights answer nothing"
    try:
        assert bare_control.http.post("/models/set_active", json={"id": "torn"}).is_error
    finally:
        bare_control.gateway.fail_with = None
    page = opened("overview")
    assert "its weights answer nothing" in [text.value for text in page.text]
    assert f"**{ACTIVE}** serves since" in words(page)
    said = [row[""] for row in cells(page) if row.get("what") == "activation"]
    assert any(one.startswith("torn failed (") for one in said)


def test_the_first_visit_is_guided_until_two_evals_can_be_compared(
    empty_server: UiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_URL", empty_server.url)
    page = opened("overview")
    assert "**First steps**" in words(page)
    steps = [link.proto.label for link in page.get("page_link")]
    assert steps[0] == "Ask the active model something"
    assert steps[-1] == "Compare the two"
    empty_server.register(EARLY, 300)
    empty_server.http.put("/datasets/sums.jsonl", content=LINES.encode()).raise_for_status()
    empty_server.evaluate(EARLY)
    assert "**First steps**" in words(opened("overview"))
    empty_server.evaluate(MODEL)
    assert "**First steps**" not in words(opened("overview"))
