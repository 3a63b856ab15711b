"""docs/reference/examples.md: every route has an example answer, or a reason for having none."""

import json
import re

from reference.__main__ import OPENAPI
from reference.example_calls import CALLS, WITHOUT
from reference.examples import PAGE, answers, shortened
from reference.schema import METHODS


def test_every_route_has_an_example_or_a_reason() -> None:
    document = json.loads(OPENAPI.read_text())
    routes = {
        f"{method.upper()} {path}" for path, item in document["paths"].items() for method in METHODS if method in item
    }
    shown = {call.route for call in CALLS if call.shown}
    assert shown & WITHOUT.keys() == set()
    assert routes - shown - WITHOUT.keys() == set()
    assert (shown | WITHOUT.keys()) - routes == set()


def test_the_page_has_what_is_called() -> None:
    text = PAGE.read_text()
    on_page = re.findall(r"^## ([A-Z]+ \S+)$", text, re.MULTILINE)
    assert on_page == [call.route for call in CALLS if call.shown]
    assert answers(text)["GET /readyz"] == {"ready": True}


def test_the_page_names_no_machine() -> None:
    text = PAGE.read_text()
    assert re.findall(r"/tmp/\S*|/root\S*|/work/\S*|\bsk-[A-Za-z0-9_-]{8,}", text) == []


def test_a_large_answer_is_cut() -> None:
    large = {"models": [{"id": str(number), "text": "x" * 1000} for number in range(100)], "none": []}
    assert json.loads(shortened(large)) == {
        "models": [{"id": "0", "text": "x" * 120 + "…"}, {"id": "1", "text": "x" * 120 + "…"}, "…"],
        "none": [],
    }
