"""The pages of docs/reference that a running server wrote are what this one would write (`make reference`)."""

from reference import api, compatibility, metrics
from reference.__main__ import API, METRICS, OPENAPI
from reference.example_calls import CALLS
from reference.examples import PAGE, answers
from tests.e2e.server import Server


def test_the_page_of_routes_is_what_the_server_answers(server: Server) -> None:
    assert api.page(server.http.get("/openapi.json").json()) == API.read_text()


def test_the_committed_document_is_what_the_server_answers(server: Server) -> None:
    assert compatibility.written(server.http.get("/openapi.json").json()) == OPENAPI.read_text()


def test_the_page_of_metrics_is_what_the_server_counts(server: Server) -> None:
    """A card has series of its own, which are not on the page."""
    said = metrics.page(server.http.get("/metrics").text)
    assert _without_cards(said) == _without_cards(METRICS.read_text())


def _without_cards(page: str) -> list[str]:
    return [line for line in page.splitlines() if not line.startswith("| `stepserve_gpu_")]


def test_examples_have_the_fields_that_are_answered(server: Server) -> None:
    """Of routes that are asked without an id; a card has what the machine of the examples has not."""
    examples = {route: each for route, each in answers(PAGE.read_text()).items() if isinstance(each, dict)}
    asked = [call.route for call in CALLS if call.route.startswith("GET") and not call.path and "{" not in call.route]
    compared = {
        route: server.http.get(route.removeprefix("GET ")).raise_for_status().json().keys() ^ examples[route].keys()
        for route in asked
        if route in examples and route != "GET /gpu"
    }
    assert len(compared) > 20
    assert {route: differing for route, differing in compared.items() if differing} == {}
