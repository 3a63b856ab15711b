"""Aliases over HTTP, and settings that are read again while requests go on."""

import asyncio
import gzip
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from stepserve import AsyncClient
from stepserve.client.errors import Conflict, NotFound
from stepserve.settings import Alias
from tests.eventually import eventually
from tests.integration.full_stack import MODEL, FullStack, bearer, run_story
from tests.unit.control.checkpoint_files import write_checkpoint


def test_an_alias_is_put_used_and_removed(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
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

    run_story(tmp_path, story, aliases={"fixed": Alias(model=MODEL)})


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
    async def story(there: FullStack) -> None:
        answer = await there.http.request(method, path, json=body)
        assert answer.status_code == status, answer.text
        assert named in answer.json()["detail"]

    run_story(tmp_path, story, aliases={"fixed": Alias(model=MODEL)})


def test_a_name_is_not_both_a_model_and_an_alias(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        write_checkpoint(there.settings.layout.models / "b", 1)
        for refused in (
            await there.http.put(f"/aliases/{MODEL}", json={}),
            await there.http.post("/api/copy", json={"source": "fixed", "destination": MODEL}),
        ):
            assert refused.status_code == 409, refused.text
            assert f"`{MODEL}` is the id of a model" in refused.text
        assert (await there.http.put("/aliases/b", json={"model": MODEL})).status_code == 201
        for path, body in (
            ("/models/register", {"id": "b", "source": "t"}),
            ("/models/register", {"id": "fixed", "source": "t"}),
            ("/pull", {"model": "org/x", "id": "b"}),
        ):
            answer = await there.http.post(path, json=body)
            assert answer.status_code == 409, answer.text
            assert f"id: {body['id']!r} is an alias of {MODEL!r}" in answer.json()["detail"]
        assert (await there.http.post("/models/register", json={"id": MODEL, "source": "t"})).status_code == 200
        assert (await there.http.delete("/aliases/b")).status_code == 200
        assert (await there.http.post("/models/register", json={"id": "b", "source": "t"})).status_code == 200

    run_story(tmp_path, story, aliases={"fixed": Alias(model=MODEL)})


def test_an_alias_is_read_as_every_body_is(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        marked = await there.http.put("/aliases/x", content=b"\xef\xbb\xbf" + b'{"model": null}')
        assert (marked.status_code, marked.json()["model"]) == (201, "active")
        for content, said in (
            (b'{"model": "\\ud800"}', "model: \\ud800 at character 0 is half"),
            (b'{"temperature": NaN}', "temperature: NaN is not"),
            (b'{"model" 1}', "line 1, column 10"),
        ):
            answer = await there.http.put("/aliases/x", content=content)
            assert answer.status_code == 422
            assert said in answer.json()["detail"]

    run_story(tmp_path, story)


def test_a_key_for_inference_sees_aliases_and_changes_none(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        key = bearer(await there.key())
        assert (await there.http.get("/aliases", headers=key)).status_code == 200
        assert (await there.http.put("/aliases/x", json={}, headers=key)).status_code == 403
        assert (await there.http.post("/config/reload", headers=key)).status_code == 403

    run_story(tmp_path, story)


def test_settings_are_read_again_without_dropping_a_request(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
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

    run_story(tmp_path, story, aliases={"old": Alias(model=MODEL)})


def test_settings_that_are_wrong_change_nothing(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        now = there.settings.model_copy(update={"aliases": {}})
        there.gateway.configuration.read = lambda: now
        hosts = there.settings.layout.base / "config" / "hosts.json"
        hosts.parent.mkdir()
        hosts.write_text('{"tiers": {"fast": {}}}')
        refused = await there.http.post("/config/reload")
        assert refused.status_code == 422
        assert "hosts.json" in refused.json()["detail"]
        assert (await there.chat(model="old")).status_code == 200

    run_story(tmp_path, story, aliases={"old": Alias(model=MODEL)})


def test_ollamas_ways_to_make_copy_and_delete_names(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        parameters = {"temperature": 0, "num_predict": 7, "stop": "x", "num_ctx": 512}
        body = {"model": "mine:latest", "from": MODEL, "parameters": parameters}
        made = await there.http.post("/api/create", json=body)
        assert [json.loads(line)["status"] for line in made.text.splitlines()][-1] == "success"
        preset = {"model": MODEL, "temperature": 0.0, "max_tokens": 7, "stop": ["x"]}
        assert (await there.http.get("/aliases/mine")).json() == {"name": "mine", **preset, "source": "aliases"}
        copied = await there.http.post("/api/copy", json={"source": "mine", "destination": "yours"})
        assert (copied.status_code, copied.content) == (200, b"")
        assert (await there.http.get("/aliases/yours")).json() == {"name": "yours", **preset, "source": "aliases"}
        assert "yours" in [each["name"] for each in (await there.http.get("/api/tags")).json()["models"]]
        for name in ("mine", "yours"):
            assert (await there.http.request("DELETE", "/api/delete", json={"model": name})).status_code == 200
        assert (await there.http.get("/aliases")).json() == {"aliases": []}
        wrong: list[tuple[str, Any, int, str]] = [
            ("/api/create", {"model": "x", "from": "nope"}, 404, "nope"),
            ("/api/create", {"model": "x"}, 400, "from"),
            ("/api/create", {"model": "x", "from": MODEL, "template": "{{ .Prompt }}"}, 400, "template"),
            ("/api/create", {"model": "x", "from": MODEL, "parameters": {"temperature": 9}}, 400, "temperature"),
            ("/api/copy", {"source": "nope", "destination": "x"}, 404, "nope"),
        ]
        for path, sent, status, named in wrong:
            refused = await there.http.post(path, json=sent)
            assert refused.status_code == status, refused.text
            assert named in refused.json()["error"]
        active = await there.http.request("DELETE", "/api/delete", json={"model": MODEL})
        assert active.status_code == 409
        assert MODEL in active.json()["error"]

    run_story(tmp_path, story)


def test_ollamas_clients_take_the_server_for_new_enough(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        told = (await there.http.get("/api/version")).json()
        assert tuple(map(int, told["version"].split("."))) >= (0, 6, 4)
        assert told["stepserve"]
        for method, path in (("GET", "/api/nope"), ("POST", "/api/web_search"), ("GET", "/api/chat"), ("POST", "/api")):
            refused = await there.http.request(method, path, json={})
            assert refused.status_code in (404, 405)
            assert set(refused.json()) == {"error"}

    run_story(tmp_path, story)


def test_an_infer_key_makes_no_names(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        key = bearer(await there.key())
        for method, path in (("POST", "/api/create"), ("POST", "/api/copy"), ("DELETE", "/api/delete")):
            assert (await there.http.request(method, path, json={"model": "x"}, headers=key)).status_code == 403

    run_story(tmp_path, story)


def test_keep_alive_unloads_and_pins(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        for number, name in enumerate(("b", "c"), start=1):
            write_checkpoint(there.settings.layout.models / name, number)
            (await there.http.post("/models/register", json={"id": name, "source": "t"})).raise_for_status()

        async def loaded() -> set[str]:
            return {each["name"] for each in (await there.http.get("/api/ps")).json()["models"]}

        async def generate(name: str, keep_alive: object) -> httpx.Response:
            body = {"model": name, "keep_alive": keep_alive}
            return await there.http.post("/api/generate", json=body)

        assert (await there.chat(model="b")).status_code == 200
        assert (await generate("b", -1)).status_code == 200
        assert await loaded() == {MODEL, "b"}
        refused = await there.chat(model="c")
        assert refused.status_code == 503
        assert "b is to stay (keep_alive)" in refused.json()["error"]["message"]
        assert (await generate("b", "5m")).status_code == 200
        assert (await there.chat(model="c")).status_code == 200
        assert await loaded() == {MODEL, "c"}
        assert (await generate("c", 0)).json()["done_reason"] == "unload"
        await eventually(loaded, lambda names: names == {MODEL})
        assert (await generate(MODEL, 0)).status_code == 200
        assert await loaded() == {MODEL}, "the active model stays"

    run_story(tmp_path, story, max_loaded_models=2)


def test_the_client_puts_and_removes_aliases(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        async with AsyncClient(there.url) as client:
            assert (await client.put_alias("org/exact", MODEL, temperature=0))["source"] == "aliases"
            assert [each["name"] for each in await client.aliases()] == ["fixed", "org/exact"]
            with pytest.raises(Conflict, match="settings"):
                await client.remove_alias("fixed")
            await client.remove_alias("org/exact")
            with pytest.raises(NotFound, match="org/exact"):
                await client.remove_alias("org/exact")
            assert (await client.model(MODEL)).id == MODEL

    run_story(tmp_path, story, aliases={"fixed": Alias(model=MODEL)})


def test_a_compressed_body_is_read_or_refused_as_such(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        headers = {"content-encoding": "gzip"}
        answer = await there.http.put("/aliases/x", content=gzip.compress(b'{"model": "a"}'), headers=headers)
        assert answer.status_code == 415
        assert "gzip" in answer.json()["detail"]

    run_story(tmp_path, story)
