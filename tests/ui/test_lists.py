"""Lists that are longer than a page: everything in them can be reached."""

from collections.abc import Iterator

import pytest

from tests.ui.control_server import ControlServer, control_server
from tests.ui.page import opened, words

COPIES = 130


@pytest.fixture(scope="module")
def newest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ControlServer, str]]:
    """A promotion that was cancelled, and older ones."""
    with control_server(tmp_path_factory.mktemp("long")) as there:
        there.add("new", 0.9)
        there.gateway.has_room_for.discard("new")
        body = {"candidate": "new", "suite": [{"dataset_ref": "sums.jsonl", "metric": "numeric"}]}
        made = there.http.post("/promotions", json=body).raise_for_status().json()
        job = str(made["job_id"])
        there.http.post(f"/jobs/{job}/cancel").raise_for_status()
        there.copy(job, COPIES)
        yield there, job


def test_the_oldest_job_can_be_reached_and_found(
    newest: tuple[ControlServer, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    there, job = newest
    monkeypatch.setenv("API_URL", there.url)
    oldest = f"{job}_{COPIES}"
    page = opened("jobs", jobs_type="promotion", jobs_page="5")
    seen = words(page)
    assert f"121 to {COPIES + 1} of {COPIES + 1}" in seen
    assert f"**{oldest}** · cancelled · new" in seen
    page.text_input(key="jobs_text").set_value(oldest).run()
    seen = words(page)
    assert "1 to 1 of 1" in seen, "it begins with the first page again"
    assert f"**{oldest}** · cancelled" in seen
    page.text_input(key="jobs_text").set_value("").run()
    assert f"1 to 30 of {COPIES + 1}" in words(page)
    page.number_input(key="jobs_page").set_value(2).run()
    assert f"31 to 60 of {COPIES + 1}" in words(page)
    assert page.query_params["jobs_page"] == "2"


def test_an_address_leads_to_one_that_is_not_offered(
    newest: tuple[ControlServer, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    there, job = newest
    monkeypatch.setenv("API_URL", there.url)
    oldest = f"{job}_{COPIES}"
    page = opened("promotions", promotion=oldest)
    assert page.selectbox(key="promotion_promotion").value == oldest
    assert f"The newest 100 of {COPIES + 1} are offered; find others by their name." in words(page)
    assert any(element.value.startswith(f"{oldest}, asked for") for element in page.caption)
