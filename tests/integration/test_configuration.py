"""Aliases over HTTP, and settings that are read again while requests go on."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from stepserve.settings import Alias
from tests.integration.town import MODEL, Town, bearer, tell


def test_an_alias_is_put_used_and_removed(tmp_path: Path) -> None:
    async def story(there: Town) -> None:
        assert (await there.chat(model="org/exact")).status_code == 404
        body = {"model": MODEL, "temperature": 0, "max_tokens": None}
        made = await there.http.put("/aliases/org/exact", json=body)
        assert (made.status_code, made.json()) == (
            201, {"name": "org/exact", "model": MODEL, "temperature": 0.0, "source": "aliases"}
        )  # fmt: skip
        answer = await there.chat(model="org/exact")
        assert answer.status_code == 200
        assert b'"temperature":0.0' in answer.content, "the engine tells what it was asked"
        assert "org/exact" in [card["id"] for card in (await there.http.get("/v1/models")).json()["data"]]
        assert (await there.http.get("/aliases/org/exact")).json() == made.json()
        listed = (await there.http.get("/aliases")).json()["aliases"]
        assert {each["name"]: each["source"] for each in listed} == {"fixed": "settings", "org/exact": "aliases"}
        assert (await there.http.put("/aliases/org/exact", json={"model": MODEL})).status_code == 200
        assert (await there.http.delete("/aliases/org/exact")).json() == {"status": "deleted", "name": "org/exact"}
        assert (await there.chat(model="org/exact")).status_code == 404

    tell(tmp_path, story, aliases={"fixed": Alias(model=MODEL)})


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "named"),
    [
        ("PUT", "/aliases/x", {"colour": "red"}, 422, "colour"),
        ("PUT", "/aliases/x", {"temperature": 9}, 422, "temperature"),
        ("PUT", "/aliases/active", {}, 422, "active"),
        ("PUT", "/aliases/fixed", {}, 409, "settings"),
        ("DELETE", "/aliases/fixed", None, 409, "settings"),
        ("DELETE", "/aliases/nope", None, 404, "`fixed`"),
        ("GET", "/aliases/nope", None, 404, "`fixed`"),
    ],
)
def test_what_is_refused_names_why(tmp_path: Path, method: str, path: str, body: Any, status: int, named: str) -> None:
    async def story(there: Town) -> None:
        answer = await there.http.request(method, path, json=body)
        assert answer.status_code == status, answer.text
        assert named in answer.json()["detail"]

    tell(tmp_path, story, aliases={"fixed": Alias(model=MODEL)})


def test_a_key_for_inference_sees_aliases_and_changes_none(tmp_path: Path) -> None:
    async def story(there: Town) -> None:
        key = bearer(await there.key())
        assert (await there.http.get("/aliases", headers=key)).status_code == 200
        assert (await there.http.put("/aliases/x", json={}, headers=key)).status_code == 403
        assert (await there.http.post("/config/reload", headers=key)).status_code == 403

    tell(tmp_path, story)


def test_settings_are_read_again_without_dropping_a_request(tmp_path: Path) -> None:
    async def story(there: Town) -> None:
        now = there.settings.model_copy(
            update={"aliases": {"new": Alias(model=MODEL)}, "unknown_model": "active", "max_held_requests": 7}
        )
        there.gateway.configuration.read = lambda: now
        there.engine.release.clear()
        asked = asyncio.create_task(there.chat(model="old"))
        await there.engine.entered.wait()
        hosts = there.settings.layout.base / "config" / "hosts.json"
        hosts.parent.mkdir()
        hosts.write_text(json.dumps({"tiers": {"fast": {"upstreams": ["http://127.0.0.1:9/v1"]}}}))
        answer = await there.http.post("/config/reload")
        assert answer.json() == {
            "status": "reloaded", "changed": ["aliases", "unknown_model"], "needs_restart": ["max_held_requests"],
            "tiers": ["fast"],
        }  # fmt: skip
        there.engine.release.set()
        assert (await asked).status_code == 200
        assert [each["name"] for each in (await there.http.get("/aliases")).json()["aliases"]] == ["new"]
        assert (await there.chat(model="whatever")).status_code == 200
        assert (await there.http.post("/fast/v1/chat/completions", json={"messages": []})).status_code in (502, 503)
        assert (await there.http.post("/slow/v1/chat/completions", json={"messages": []})).status_code == 404

    tell(tmp_path, story, aliases={"old": Alias(model=MODEL)})


def test_settings_that_are_wrong_change_nothing(tmp_path: Path) -> None:
    async def story(there: Town) -> None:
        now = there.settings.model_copy(update={"aliases": {}})
        there.gateway.configuration.read = lambda: now
        hosts = there.settings.layout.base / "config" / "hosts.json"
        hosts.parent.mkdir()
        hosts.write_text('{"tiers": {"fast": {}}}')
        refused = await there.http.post("/config/reload")
        assert refused.status_code == 422
        assert "hosts.json" in refused.json()["detail"]
        assert (await there.chat(model="old")).status_code == 200

    tell(tmp_path, story, aliases={"old": Alias(model=MODEL)})
