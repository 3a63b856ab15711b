"""A dialect of another package, as pip leaves it: its routes are served, refused and described as ours are."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.dialects.installed import GROUP, DialectRefused, installed_routes
from gateway.dialects.served import Served
from gateway.edge.openapi import mark_deprecated, own
from gateway.serving.naming import Naming
from stepserve import hosts, route_table
from tests.unit.gateway.edge.test_observation import Answering
from tests.unit.gateway.edge.test_observation import ask as ask_edge
from tests.unit.gateway.test_dialects import EMPTY, WHOLE, Inner, ask

MODULE = """
from datetime import date

from pydantic import BaseModel
from gateway.dialects.installed import Dialect
from gateway.dialects.router import Route
from stepserve.deprecation import Deprecation


class Asked(BaseModel):
    model: str
    message: str


async def chat(call, asked):
    body = {"model": asked.model, "messages": [{"role": "user", "content": asked.message}]}
    await call.whole("/v1/chat/completions", body, lambda answer: {"text": answer["choices"][0]["message"]["content"]})


def routes(served):
    return [Route("POST", "/cohere/v1/chat", "Cohere: answer", chat, request=Asked)]


COHERE = Dialect("/cohere", "native", routes)
OLD = Dialect("/cohere", "native", routes, Deprecation(date(2027, 1, 1), date(2027, 7, 1), "/v2/chat"))
OURS = Dialect("/models", "native", routes)
ASTRAY = Dialect("/elsewhere", "native", routes)
"""
SERVED = Served(lambda: EMPTY, Naming())


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def installed(*points: str) -> None:
        site = tmp_path / "site"
        facts = site / "others_dialect-1.0.dist-info"
        facts.mkdir(parents=True)
        (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: others-dialect\nVersion: 1.0\n")
        (facts / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *points]) + "\n")
        (site / "others_dialect.py").write_text(MODULE)
        monkeypatch.syspath_prepend(site)
        monkeypatch.delitem(sys.modules, "others_dialect", raising=False)
        importlib.invalidate_caches()

    monkeypatch.setattr(route_table, "_INSTALLED", {})
    monkeypatch.setattr(route_table, "_FIXED", dict(route_table._FIXED))
    return installed


def test_its_requests_are_answered_in_its_own_words(tmp_path: Path, install: Any) -> None:
    install("cohere = others_dialect:COHERE")
    client = ask(tmp_path, Inner(WHOLE), "/cohere/v1/chat", model="a", message="x")
    assert (client.status, json.loads(client.body)) == (200, {"text": "hi"})
    wrong = ask(tmp_path, Inner(WHOLE), "/cohere/v1/chat", model="a")
    assert wrong.status == 422
    assert "message" in json.loads(wrong.body)["detail"]


def test_it_is_in_the_table_of_routes_and_in_the_document(install: Any, tmp_path: Path) -> None:
    install("cohere = others_dialect:COHERE")
    routes = installed_routes(SERVED)
    found = route_table.match("POST", "/cohere/v1/chat")
    assert found.row is not None
    assert (found.scope, found.label, found.row.time) == ("infer", "/cohere", "answer")
    assert route_table.match("GET", "/cohere/v1/chat").allow == ("POST",)
    assert route_table.match("POST", "/cohere/nothing").scope == "infer"
    assert "/cohere/v1/chat" in own(routes, [])["paths"]
    file = tmp_path / "hosts.json"
    file.write_text(json.dumps({"tiers": {"cohere": {"upstreams": [{"base_url": "http://127.0.0.1:1/v1"}]}}}))
    with pytest.raises(hosts.HostsRefused, match="'cohere' cannot be a tier's name"):
        hosts.read(file, tmp_path)


@pytest.mark.parametrize(
    ("points", "said"),
    [
        (["a = others_dialect:OURS"], "dialect a: prefix '/models' is this server's own"),
        (["a = others_dialect:ASTRAY"], "must be a path without parameters below /elsewhere"),
        (["a = others_dialect:Nothing"], "cannot be imported"),
        (["a = others_dialect:MODULE_OF_NOBODY"], "cannot be imported"),
        (["a = json:loads"], "is not a gateway.dialects.installed.Dialect"),
        (["a = others_dialect:COHERE", "b = others_dialect:COHERE"], "dialect b: a has the prefix /cohere too"),
    ],
)
def test_one_that_cannot_be_served_refuses_the_start_by_name(install: Any, points: list[str], said: str) -> None:
    install(*points)
    with pytest.raises(DialectRefused, match=said):
        installed_routes(SERVED)


def test_one_that_will_be_removed_says_so_on_every_answer_and_in_the_document(install: Any) -> None:
    install("old = others_dialect:OLD")
    document = own(installed_routes(SERVED), [])["paths"]
    mark_deprecated(document)
    assert document["/cohere/v1/chat"]["post"]["deprecated"] is True
    sent = asked_of_edge("/cohere/v1/chat")
    assert sent["deprecation"] == "@1798761600"  # 2027-01-01T00:00:00Z
    assert sent["sunset"] == "Thu, 01 Jul 2027 00:00:00 GMT"
    assert sent["link"] == '</v2/chat>; rel="successor-version"'
    assert "deprecation" not in asked_of_edge("/v1/chat/completions")


def asked_of_edge(path: str) -> dict[str, str]:
    """The headers of an answer that has passed the outermost layer."""
    return {
        name.decode(): value.decode()
        for message in ask_edge(Answering(), path=path)
        if message["type"] == "http.response.start"
        for name, value in message["headers"]
    }
