"""What a gateway with cards says of where its engines are."""

from pathlib import Path

from stepserve.placement import Device
from tests.integration.full_stack import MODEL, FullStack, run_story

GB = 1_000_000_000


def cards() -> list[Device]:
    return [Device(str(n), 24 * GB, "card", f"GPU-{n}", 24 * GB) for n in range(2)]


def test_status_has_the_cards_of_each_engine_and_how_many_models_they_hold(tmp_path: Path) -> None:
    async def story(full_stack: FullStack) -> None:
        status = (await full_stack.http.get("/status")).json()
        (engine,) = status["engines"]
        assert engine["model"]["id"] == MODEL
        placement = engine["placement"]
        assert placement["devices"] in (["GPU-0"], ["GPU-1"])
        assert 0 < placement["bytes_each"] <= 24 * GB
        assert 0 < placement["share"] < 1
        assert (
            status["max_cache"]
            == status["cache"]["limit"]
            == (await full_stack.http.get("/health")).json()["cache_limit"]
        )
        assert status["max_cache"] > 1

    run_story(tmp_path, story, read_cards=cards)


def test_without_a_card_there_is_no_placement_and_the_limit_is_two(tmp_path: Path) -> None:
    async def story(full_stack: FullStack) -> None:
        status = (await full_stack.http.get("/status")).json()
        assert status["engines"][0]["placement"] is None
        assert status["max_cache"] == 2

    run_story(tmp_path, story)
