"""PUT /models/{id}/weights over real sockets, with control and a database, over an engine that is a fake."""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import torch

from stepserve import AsyncClient, Client, StepserveCallback
from stepserve.client.errors import Invalid
from stepserve.client.weights import PushedWeights
from stepserve.probe import METADATA_KEY
from stepserve.settings import WeightsSettings
from tests.eventually import eventually
from tests.integration.full_stack import MODEL, FullStack, bearer, run_story
from tests.unit.control.checkpoint_files import weights

ROUTE = f"/models/{MODEL}/weights"
OTHER = weights(7)


def safetensors(tensors: dict[str, bytes], **metadata: str) -> bytes:
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    position = 0
    for name, data in tensors.items():
        header[name] = {"dtype": "U8", "shape": [len(data)], "data_offsets": [position, position + len(data)]}
        position += len(data)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(tensors.values())


async def served(there: FullStack) -> tuple[str, str]:
    """The version and the digest that an answer names."""
    answer = await there.chat()
    assert answer.status_code == 200, answer.text
    return answer.headers["x-model-version"], answer.headers["x-model-digest"]


async def digest_of_files(there: FullStack) -> str:
    models = (await there.http.get("/models")).json()["models"]
    return str(next(model["digest"] for model in models if model["id"] == MODEL))


def test_a_push_and_the_way_back_to_the_files(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        files = await digest_of_files(there)
        assert await served(there) == ("0", files)
        shown = (await there.http.get(ROUTE)).json()
        assert (shown["version"], shown["digest"], shown["bytes"]) == (0, files, 96)
        assert shown["tensors"][0] == {"name": "layer.0", "dtype": "U8", "shape": [16]}
        answer = await there.http.put(ROUTE, params={"version": "step-7"}, content=safetensors(OTHER))
        assert answer.status_code == 200, answer.text
        pushed = answer.json()
        assert (pushed["version"], pushed["weight_version"], pushed["bytes"]) == (1, "step-7", 96)
        assert (pushed["changed"], pushed["tensors"], pushed["proof"]["kind"]) == (3, 3, "changed")
        assert await served(there) == ("1", pushed["digest"])
        assert pushed["digest"] != files
        status = (await there.http.get("/status")).json()
        assert status["engines"][0]["version"] == {"number": 1, "label": "step-7"}
        assert "stepserve_model_version 1.0" in (await there.http.get("/metrics")).text
        same = (await there.http.put(ROUTE, content=safetensors(weights(0)))).json()
        assert (same["version"], same["digest"]) == (2, files), "a digest says what a registration would say"
        again = await there.http.post("/models/set_active", json={"id": MODEL})
        assert again.json()["method"] == "in_place"
        assert await served(there) == ("0", files)
        third = await there.http.put("/models/active/weights", content=safetensors(OTHER))
        assert third.json()["version"] == 3

    run_story(tmp_path, story)


def test_control_leaves_pushed_weights_alone(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        pushed = (await there.http.put(ROUTE, content=safetensors(OTHER))).json()
        active = (await there.http.get("/models/active")).json()
        assert active["id"] == MODEL
        looks: list[int] = []

        async def look() -> tuple[str, str]:
            looks.append(1)
            return await served(there)

        await eventually(look, lambda now: now != ("1", pushed["digest"]) or len(looks) > 20)
        assert await served(there) == ("1", pushed["digest"])

    run_story(tmp_path, story)


def test_what_is_refused_changes_nothing(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        before = await served(there)
        two = dict(list(OTHER.items())[:2])
        for path, body, status, code, words in (
            (ROUTE, safetensors(two), 422, "bad_weights", "layer.2 is missing"),
            (ROUTE, safetensors(OTHER | {"x": b"1"}), 422, "bad_weights", "x is not a tensor of the model"),
            (ROUTE, safetensors(OTHER)[:-1], 422, "bad_weights", "the body is torn"),
            (ROUTE, b"\0" * 2_000_000, 413, "request_too_large", "which all tensors of `a` take"),
            (ROUTE + "?in_flight=perhaps", b"", 422, "invalid_request", "in_flight: must be one of"),
            (ROUTE + "?verson=1", b"", 422, "invalid_request", "verson: is not a parameter"),
            (ROUTE + "?timeout_s=nan", b"", 422, "invalid_request", "timeout_s: must be a number"),
            ("/models/nobody/weights", safetensors(OTHER), 404, "model_not_found", "`nobody`"),
            (ROUTE, safetensors(OTHER, **{METADATA_KEY: "{"}), 422, "invalid_request", "probe: is not valid JSON"),
            (ROUTE, safetensors(OTHER, **{METADATA_KEY: "{}"}), 422, "invalid_request", "logprobs"),
        ):
            answer = await there.http.put(path, content=body)
            assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
            assert words in answer.json()["detail"]
        assert await served(there) == before
        assert there.engine.reloads == 0

    run_story(tmp_path, story)


def test_a_push_that_fails_says_what_serves(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        good = (await there.http.put(ROUTE, content=safetensors(OTHER))).json()
        bad = OTHER | {"layer.0": b"NaN" + OTHER["layer.0"][3:]}
        answer = await there.http.put(ROUTE, content=safetensors(bad))
        assert answer.status_code == 422
        body = answer.json()
        assert (body["code"], body["rolled_back_to"], body["proof"]["passed"]) == ("proof_failed", 1, False)
        probe = {"prompts": ["somebody else"], "logprobs": [[-1.0]]}
        answer = await there.http.put(ROUTE, content=safetensors(weights(9), **{METADATA_KEY: json.dumps(probe)}))
        assert (answer.status_code, answer.json()["proof"]["kind"]) == (422, "reference")
        assert await served(there) == ("1", good["digest"])

    run_story(tmp_path, story)


def test_a_trainer_that_goes_away_in_the_middle(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        before = await served(there)
        body = safetensors(OTHER)
        host, port = there.url.removeprefix("http://").split(":")
        for framing in (f"content-length: {len(body)}\r\n\r\n".encode(), b"transfer-encoding: chunked\r\n\r\n40\r\n"):
            with socket.create_connection((host, int(port))) as trainer:
                trainer.sendall(f"PUT {ROUTE} HTTP/1.1\r\nhost: {host}\r\n".encode() + framing + body[:64])
                await eventually(lambda: _is_pushing(there), bool)
                refused = await there.http.put(ROUTE, content=body)
                assert (refused.status_code, refused.json()["code"]) == (409, "push_in_progress")
            await eventually(lambda: _is_pushing(there), lambda pushing: not pushing)
        assert await served(there) == before

    run_story(tmp_path, story)


async def _is_pushing(there: FullStack) -> bool:
    return bool((await there.http.get(ROUTE)).json()["pushing"])


def test_a_body_without_a_length_and_in_pieces(tmp_path: Path) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for name, data in OTHER.items():
            yield safetensors({name: data})

    async def story(there: FullStack) -> None:
        answer = await there.http.put(ROUTE, content=pieces())
        assert answer.status_code == 200, answer.text
        assert await served(there) == ("1", answer.json()["digest"])

    run_story(tmp_path, story)


def test_a_request_waits_for_the_version_that_it_demands(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        async def ask(**headers: str) -> httpx.Response:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return await there.http.post("/v1/chat/completions", json={"model": MODEL}, headers=named)

        waiting = [asyncio.create_task(ask(x_min_model_version="1")), asyncio.create_task(ask(x_model_version="1"))]
        await eventually(lambda: _held(there), lambda held: held == 2)
        await there.http.put(ROUTE, content=safetensors(OTHER))
        for answer in await asyncio.gather(*waiting):
            assert (answer.status_code, answer.headers["x-model-version"]) == (200, "1")
        assert (await ask(x_min_model_version="1")).status_code == 200
        past = await ask(x_model_version="0")
        assert (past.status_code, past.json()["error"]["code"]) == (409, "model_version_unavailable")
        assert past.headers["retry-after"] == "1"
        late = await ask(x_min_model_version="2")
        assert late.json()["error"]["message"] == (
            "`a` serves version 1 of its weights, and the request demands 2 or later."
        )
        assert (await ask(x_min_model_version="soon")).status_code == 400
        native = await there.http.post("/generate", json={"prompt": "1"}, headers={"x-model-version": "7"})
        assert (native.status_code, native.json()["code"]) == (409, "model_version_unavailable")

    run_story(tmp_path, story, hold_timeout_s=2.0)


async def _held(there: FullStack) -> int:
    return int((await there.http.get("/status")).json()["held_requests"])


def test_a_push_may_become_a_checkpoint(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        pushed = (await there.http.put(ROUTE, params={"persist": "true"}, content=safetensors(OTHER))).json()
        assert pushed["persisted_as"] == "a-v1"

        async def registered() -> dict[str, Any]:
            models = (await there.http.get("/models")).json()["models"]
            return {model["id"]: model for model in models}

        models = await eventually(registered, lambda found: "a-v1" in found)
        assert models["a-v1"]["digest"] == pushed["digest"]
        assert not (torn / "model.safetensors").exists(), "a killed server's, which nobody else will ever remove"
        answer = await there.http.post("/models/set_active", json={"id": "a-v1"})
        assert answer.status_code == 200, answer.text
        answer = await there.chat(model="active")
        assert (answer.headers["x-model-id"], answer.headers["x-model-version"]) == ("a-v1", "0")

    torn = tmp_path / "models" / ".a-v7.pushed"
    torn.mkdir(parents=True)
    (torn / "model.safetensors").write_bytes(b"the first half")
    run_story(tmp_path, story)


def test_every_second_version_becomes_a_checkpoint_by_a_setting(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        pushed = [(await there.http.put(ROUTE, content=safetensors(weights(seed)))).json() for seed in (3, 4, 5)]
        assert [one["persisted_as"] for one in pushed] == [None, "a-v2", None]

        async def registered() -> dict[str, Any]:
            models = (await there.http.get("/models")).json()["models"]
            return {model["id"]: model for model in models}

        models = await eventually(registered, lambda found: "a-v2" in found)
        assert (models["a-v2"]["digest"], models["a-v2"]["tags"]) == (pushed[1]["digest"], ["pushed"])
        assert {"a-v1", "a-v3"}.isdisjoint(models)

    run_story(tmp_path, story, weights=WeightsSettings(persist_every=2))


def tensors_of(content: dict[str, bytes]) -> dict[str, torch.Tensor]:
    return {name: torch.frombuffer(bytearray(data), dtype=torch.uint8) for name, data in content.items()}


def test_the_clients(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        def block() -> PushedWeights:
            with Client(there.url) as client:
                with pytest.raises(Invalid, match=r"layer\.2 is missing"):
                    client.push_weights({"layer.0": tensors_of(OTHER)["layer.0"]})
                return client.push_weights(tensors_of(OTHER), model=MODEL, version="one")

        pushed = await asyncio.to_thread(block)
        assert (pushed.version, pushed.weight_version, pushed.changed) == (1, "one", 3)
        async with AsyncClient(there.url) as client:
            again = await client.push_weights(iter(tensors_of(weights(9)).items()))
        assert await served(there) == ("2", again.digest)

    run_story(tmp_path, story)


def test_a_trainers_hook_pushes_every_so_many_steps(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def story(there: FullStack) -> None:
        class Model:
            def __init__(self, seed: int) -> None:
                self.state_dict = lambda: tensors_of(weights(seed))

        def train() -> None:
            with Client(there.url) as client:
                hook = StepserveCallback("run", push="weights", every=2, probe=False, client=client)
                arguments = SimpleNamespace(output_dir=str(tmp_path / "out"), deepspeed=None, fsdp=None)
                for step in (1, 2, 3, 4):
                    state = SimpleNamespace(is_world_process_zero=True, global_step=step, log_history=[])
                    hook.on_step_end(arguments, state, None, model=Model(step))
                    hook.on_save(arguments, state, None, model=Model(step))
                state.global_step = 6
                hook.on_step_end(arguments, state, None, model=SimpleNamespace(state_dict=dict))
                hook.on_train_end(arguments, state, None)

        await asyncio.to_thread(train)
        shown = (await there.http.get(ROUTE)).json()
        assert (shown["version"], shown["weight_version"]) == (2, "run-step-4")
        assert [model["id"] for model in (await there.http.get("/models")).json()["models"]] == [MODEL]

    run_story(tmp_path, story)
    assert "the weights of step 6 are not on the server" in caplog.text


def test_a_jobs_answer_that_a_push_went_through_is_not_the_jobs(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        digest = await digest_of_files(there)
        there.engine.release.clear()
        transport = httpx.ASGITransport(there.gateway.private)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway", timeout=240) as control:
            item = {"path": "/v1/chat/completions", "body": {}}
            asking = asyncio.create_task(
                control.post("/ask", json={"model": MODEL, "digest": digest, "items": [item]}, timeout=240)
            )
            await there.engine.entered.wait()
            pushed = await there.http.put(ROUTE, params={"in_flight": "keep"}, content=safetensors(OTHER))
            assert (pushed.status_code, pushed.json()["proof"]["kind"]) == (200, "changed")
            there.engine.release.set()
            answer = await asking
        assert (answer.status_code, answer.json()["code"]) == (409, "digest_mismatch")
        assert "version 1, which was pushed" in answer.json()["detail"]

    run_story(tmp_path, story)


def test_only_a_key_for_weights_may_push(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        body = safetensors(OTHER)
        keys = {scope: await there.key(scopes=[scope]) for scope in ("admin", "infer", "jobs", "weights")}
        assert (await there.http.put(ROUTE, content=body)).status_code == 401
        for scope, status in (("infer", 403), ("jobs", 403), ("weights", 200), ("admin", 200)):
            answer = await there.http.put(ROUTE, content=body, headers=bearer(keys[scope]))
            assert answer.status_code == status, answer.text
        assert (await there.chat(keys["weights"])).status_code == 403

    run_story(tmp_path, story)
