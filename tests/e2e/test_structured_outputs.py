"""Answers that are held to something: what is too much is refused in the words of its route, and nobody else waits."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest

from tests.e2e.hostile_structures import CHAT, COMPLETION, SLOW, hostile
from tests.e2e.server import Server, title_of

SUM: dict[str, Any] = {
    "type": "object",
    "properties": {"sum": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["sum"],
    "additionalProperties": False,
}
LARGE = {"type": "object", "properties": {f"p{i}": {} for i in range(1_001)}}
LOOP = {"$ref": "#"}
TRIED = pytest.mark.patches("grammar_trials")


def _format(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}


def _held(server: Server, held: dict[str, Any], **options: Any) -> httpx.Response:
    return server.http.post("/v1/completions", json=COMPLETION | {"structured_outputs": held} | options)


def _text(answer: httpx.Response) -> str:
    text: str = answer.raise_for_status().json()["choices"][0]["text"]
    return text


@pytest.mark.patches("grammar_trials", "grammar_budget")
def test_hostile_structures_are_refused_while_another_client_goes_on(server: Server) -> None:
    over = threading.Event()
    polite: list[str] = []

    def ask_politely() -> None:
        while not over.is_set():
            new = SUM | {"title": f"the {len(polite)}th"}  # so half of what it asks for has to be compiled
            polite.append(_text(_held(server, {"json": new if len(polite) % 2 else SUM})))

    def ask(name: str) -> tuple[str, int, str]:
        _, path, body = asked[name]
        answer = server.http.post(path, json=body)
        return name, answer.status_code, answer.text[:300]

    asked = {name: one for name, one in hostile().items() if name not in SLOW}
    with ThreadPoolExecutor(4) as clients:  # the polite one is the fourth: no more than four may be slow at once
        going_on = clients.submit(ask_politely)
        try:
            answered = list(clients.map(ask, asked))
        finally:
            over.set()
        going_on.result()
    assert [answer for answer in answered if answer[1] not in asked[answer[0]][0]] == []
    assert len(polite) > 3
    assert all(isinstance(json.loads(text)["sum"], int) for text in polite)


@pytest.mark.parametrize(
    ("path", "more", "param"),
    [
        ("/v1/chat/completions", {"response_format": _format(LARGE)}, "response_format"),
        pytest.param(
            "/v1/chat/completions", {"response_format": _format(LOOP)}, "structured_outputs.json", marks=TRIED
        ),
        pytest.param(
            "/v1/completions",
            {"prompt": "1", "structured_outputs": {"regex": "(a"}},
            "structured_outputs.regex",
            marks=TRIED,
        ),
        (
            "/v1/responses",
            {"input": "1", "text": {"format": {"type": "json_schema", "name": "a", "schema": LARGE}}},
            "text",
        ),
    ],
)
def test_a_refusal_names_the_field(server: Server, path: str, more: dict[str, Any], param: str) -> None:
    answer = server.http.post(path, json=CHAT | more)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_a_refusal_is_in_the_envelope_of_its_route(server: Server) -> None:
    tool = {"name": "f", "input_schema": {"type": "object", "properties": {f"p{i}": {} for i in range(8_001)}}}
    anthropic = server.http.post("/v1/messages", json=CHAT | {"tools": [tool]})
    assert (anthropic.status_code, anthropic.json()["type"]) == (400, "error")
    assert "max_message_values" in anthropic.json()["error"]["message"]
    ollama = server.http.post("/api/chat", json=CHAT | {"format": LARGE, "stream": False})
    assert ollama.status_code == 400
    assert "max_properties" in ollama.json()["error"]


@pytest.mark.patches("grammar_compiling")
@pytest.mark.parametrize(
    "held",
    [
        {"json": SUM},
        {"json": {"type": "integer", "multipleOf": 2, "minimum": 0, "maximum": 100}},
        {"regex": "[0-9]{2}x"},
        {"choice": ["yes", "no"]},
        {"grammar": 'root ::= "<" [0-9] ">"'},
        {"json_object": True},
    ],
)
def test_answers_are_held_to_what_each_request_says_whichever_back_end_it_takes(
    server: Server, held: dict[str, Any]
) -> None:
    """In any order: what the first request of all needs decides nothing for the others."""
    text = _text(_held(server, held, max_tokens=60))
    if "json" in held and "multipleOf" in held["json"]:
        assert int(text) % 2 == 0
    elif "json" in held:
        assert set(json.loads(text)) == {"sum"}
    elif "regex" in held:
        assert text[:2].isdigit()
        assert text[2:] == "x"
    elif "choice" in held:
        assert text in held["choice"]
    elif "grammar" in held:
        assert (text[0], text[2]) == ("<", ">")
    else:
        assert text.lstrip().startswith("{")


@pytest.mark.patches("grammar_trials")
def test_the_process_that_compiles_may_die(server: Server) -> None:
    """Its requests are refused for now; the next one starts another."""
    _text(_held(server, {"regex": "[0-9]{3}"}))
    processes = psutil.Process(server.process.pid).children(recursive=True)
    [compiling] = [each for each in processes if "stepserve: grammars" in title_of(each)]
    compiling.kill()
    compiling.wait(240)
    answer = _held(server, {"regex": "[0-9]{4}"})
    if answer.status_code == 503:  # it was sent before the gateway knew
        answer = _held(server, {"regex": "[0-9]{4}"})
    assert len(_text(answer)) == 4
