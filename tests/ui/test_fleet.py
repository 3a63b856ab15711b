"""The page Fleet over a control with members: what it shows, and that nothing happens without an answer."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from streamlit.testing.v1 import AppTest

from tests.ui.control_server import ACTIVE, ControlServer
from tests.ui.page import cells, opened, words

HOSTILE = "![x](http://192.0.2.1/?secret) :red[so] costs $5 or $6"


@pytest.fixture(autouse=True)
def _of_the_fleet(fleet: ControlServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_URL", fleet.url)


@pytest.fixture(scope="module")
def registered(fleet: ControlServer) -> str:
    fleet.add("newer", 0.9)
    return "newer"


@pytest.fixture
def newer(fleet: ControlServer, registered: str) -> Iterator[str]:
    """A model to switch to; afterwards the one before is active again."""
    yield registered
    fleet.http.post("/models/set_active", json={"id": ACTIVE}).raise_for_status()


def _asks(page: AppTest, action: str, member: str) -> AppTest:
    page.selectbox(key="fleet_member").select(member).run()
    return page.button(key=f"fleet_{action}").click().run()


def test_it_shows_every_gateway_with_its_state_and_what_it_serves() -> None:
    page = opened("fleet")
    assert not page.error, words(page)
    seen = words(page)
    assert "Ready: 3 of 3" in seen
    assert f"Committed model: {ACTIVE}" in seen
    found = {row["gateway"]: row for row in cells(page)}
    assert list(found) == ["local", "m1", "m2"]
    assert [(row["state"], row["model"]) for row in found.values()] == [("ready", ACTIVE)] * 3
    assert found["m1"]["labels"] == "tier=fast"
    assert not page.button, "nothing can be done before a gateway is chosen"


def test_a_member_is_kept_out_and_let_in_again_after_a_question(fleet: ControlServer) -> None:
    page = _asks(opened("fleet"), "cordon", "m1")
    assert fleet.state_of("m1") == "ready", "nothing happens before the question is answered"
    assert "m1 is ready and answers 0 requests now." in words(page)
    page.button(key="fleet_no").click().run()
    assert fleet.state_of("m1") == "ready"
    page = _asks(page, "drain", "m1")
    page.button(key="fleet_yes").click().run()
    assert fleet.state_of("m1") == "cordoned", "it had nothing to answer"
    seen = words(page)
    assert "m1 is cordoned." in [element.value for element in page.success]
    assert "Ready: 2 of 3" in seen
    assert "m1 is cordoned: it is kept out of requests and switches (drained by hand)." in seen
    assert page.button(key="fleet_cordon").disabled
    _asks(page, "uncordon", "m1").button(key="fleet_yes").click().run()
    fleet.until_state("m1", "ready")


def test_who_would_be_the_last_is_warned_of(fleet: ControlServer) -> None:
    fleet.http.post("/fleet/m2/cordon").raise_for_status()
    fleet.gateway.switching_to = "another"  # so control's own is not ready either
    try:
        page = _asks(opened("fleet"), "drain", "m1")
        assert "No other gateway is ready: requests would wait, or be refused." in words(page)
    finally:
        fleet.gateway.switching_to = None
        fleet.http.post("/fleet/m2/uncordon").raise_for_status()
        fleet.until_state("m2", "ready")


def test_only_a_lost_member_can_be_removed_and_is_gone_then(fleet: ControlServer) -> None:
    member = fleet.member("m2")
    page = opened("fleet", member="m2")
    assert page.selectbox(key="fleet_member").value == "m2", "the address names it"
    assert page.button(key="fleet_remove").disabled

    async def leave() -> None:
        member.beats.clear()
        (await member.beat(leaving=True)).raise_for_status()

    fleet.running.do(leave())
    try:
        page.run()
        assert "m2 is lost: it has not been heard for longer than the lease, or was stopped (it was stopped)." in words(
            page
        )
        page.button(key="fleet_remove").click().run()
        assert fleet.state_of("m2") == "lost"
        page.button(key="fleet_yes").click().run()
        assert fleet.state_of("m2") is None
        assert "m2 is removed." in words(page)
        assert page.selectbox(key="fleet_member").value is None
        assert "member" not in page.query_params
    finally:
        fleet.running.do(_back(fleet))


async def _back(fleet: ControlServer) -> None:
    member = fleet.member("m2")
    (await member.join()).raise_for_status()
    member.beats.set()
    await member.told_that("ready")


def test_a_rollout_is_shown_as_it_happens(fleet: ControlServer, newer: str) -> None:
    member = fleet.member("m1")
    member.promotion_scenario.clear()
    member.may_stage.clear()
    with ThreadPoolExecutor(1) as pool:
        switch = pool.submit(fleet.http.post, "/models/set_active", json={"id": newer})
        try:
            fleet.running.do(asyncio.wait_for(member.promotion_scenario.wait(), 240))
            page = opened("fleet")
            assert f"Rollout {ACTIVE} → {newer}" in words(page)
            steps = {row["gateway"]: row["step"] for row in cells(page) if "step" in row}
            assert steps["m1"] == "staging"
            assert steps["local"] == "staged"
        finally:
            fleet.running.loop.call_soon_threadsafe(member.may_stage.set)
        switch.result().raise_for_status()
    page.run()
    seen = words(page)
    assert f"The last rollout, {ACTIVE} → {newer}: committed." in seen
    assert {row["step"] for row in cells(page) if "step" in row} == {"proved"}


def test_what_members_say_is_text(fleet: ControlServer, newer: str) -> None:
    member = fleet.member("m1")
    member.refuse_stage = HOSTILE
    try:
        assert fleet.http.post("/models/set_active", json={"id": newer}).is_error
    finally:
        member.refuse_stage = None
    page = opened("fleet")
    drawn = [element for kind in (page.markdown, page.caption, page.error, page.warning) for element in kind]
    said = [element.value for element in drawn if "192.0.2.1" in element.value]
    assert said
    assert not any("![" in text or " :red[" in text or " $5" in text for text in said)
