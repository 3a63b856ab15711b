"""Pushes of what changed, over real sockets, over an engine that is a fake."""

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import torch

from stepserve import AsyncClient, Client, StepserveCallback
from stepserve.client.delta import DeltaPush
from stepserve.client.errors import Invalid
from stepserve.client.weights import ExpectedWeights, PushedWeights
from stepserve.delta import MEDIA_TYPE
from tests.integration.full_stack import MODEL, FullStack, run_story
from tests.integration.test_weights import OTHER, ROUTE, safetensors, served, tensors_of
from tests.unit.control.checkpoint_files import weights

TYPE = {"content-type": MEDIA_TYPE}
ONE = OTHER | {"layer.1": bytes([OTHER["layer.1"][0] ^ 1]) + OTHER["layer.1"][1:]}
"""One byte is another."""


async def pushed(there: FullStack, content: Mapping[str, bytes]) -> str:
    """The digest of a push of everything."""
    answer = await there.http.put(ROUTE, content=safetensors(dict(content)))
    assert answer.status_code == 200, answer.text
    return str(answer.json()["digest"])


async def shown(there: FullStack) -> dict[str, Any]:
    answer: dict[str, Any] = (await there.http.get(ROUTE)).json()
    return answer


async def delta(there: FullStack, before: Mapping[str, bytes], after: Mapping[str, bytes]) -> bytes:
    """What the client sends who has pushed `before`."""
    expected = ExpectedWeights.model_validate(await shown(there))
    first = DeltaPush.of(tensors_of(dict(before)), expected, None, None, 9)
    for _ in first.body.pieces:
        pass
    answer = PushedWeights(
        id=MODEL, version=1, digest=expected.delta_base or "", bytes=0, changed=0, tensors=3, received_ms=0,
        checked_ms=0, paused_ms=0, held_ms=0, in_flight=0,
    )  # fmt: skip
    second = DeltaPush.of(tensors_of(dict(after)), expected, None, first.keeps(answer), 9)
    assert second.body.base == expected.delta_base
    return b"".join(bytes(piece) for piece in second.body.pieces)


async def put(there: FullStack, base: str | None, content: bytes, **headers: str) -> httpx.Response:
    params = {"base": base} if base is not None else {}
    return await there.http.put(ROUTE, params=params, content=content, headers=TYPE | headers)


def test_a_delta_serves_as_a_push_of_everything(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        assert (await shown(there))["delta_base"] is None
        base = await pushed(there, OTHER)
        assert (await shown(there))["delta_base"] == base
        answer = await put(there, base, await delta(there, OTHER, ONE))
        assert answer.status_code == 200, answer.text
        done = answer.json()
        assert (done["version"], done["changed"], done["tensors"], done["base"]) == (2, 1, 3, base)
        assert (done["bytes"], done["proof"]["kind"]) == (96, "weak")
        assert await served(there) == ("2", done["digest"])
        loaded = there.engine.weights
        assert await pushed(there, ONE) == done["digest"]
        assert all(data in loaded for data in ONE.values()), "what the engine was given"

    run_story(tmp_path, story)


def test_what_is_refused_changes_nothing(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        none = await put(there, "sha256:0", b"x" * 100)
        assert (none.status_code, none.json()["code"]) == (409, "delta_base_unavailable")
        assert "its files serve, which take no delta" in none.json()["detail"]
        base = await pushed(there, OTHER)
        good = await delta(there, OTHER, ONE)
        before, reloads = await served(there), there.engine.reloads
        for said, body, status, code, words in (
            ("sha256:0", good, 409, "delta_base_unavailable", f"a delta can be for {base} now"),
            (None, good, 422, "invalid_request", "base: must name the digest"),
            ("", good, 422, "invalid_request", "base: must be 1 to 128"),
            (base, good[:-1], 422, "bad_weights", "the body is torn"),
            (base, safetensors(ONE), 422, "bad_weights", "this is not a delta, or not all of one"),
            (base, await delta(there, ONE, OTHER | {"layer.1": ONE["layer.1"][::-1]}), 422, "bad_weights", "checksum"),
            (base, b"\0" * 2_000_000, 413, "request_too_large", "which all tensors of `a` take"),
        ):
            answer = await put(there, said, body)
            assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
            assert words in answer.json()["detail"]
        plain = await there.http.put(ROUTE, params={"base": base}, content=safetensors(ONE))
        assert (plain.status_code, "base: is for a body of the type" in plain.text) == (422, True)
        assert (await served(there), there.engine.reloads) == (before, reloads)
        assert (await put(there, base, good)).status_code == 200

    run_story(tmp_path, story)


def test_a_delta_that_fails_its_proof_leaves_its_base(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        base = await pushed(there, OTHER)
        body = await delta(there, OTHER, OTHER | {"layer.0": b"NaN" + OTHER["layer.0"][3:]})
        failed = await put(there, base, body)
        assert (failed.status_code, failed.json()["code"], failed.json()["rolled_back_to"]) == (422, "proof_failed", 1)
        assert await served(there) == ("1", base)
        assert (await put(there, base, await delta(there, OTHER, ONE))).status_code == 200

    run_story(tmp_path, story)


def test_the_client_sends_everything_where_the_server_has_no_base(tmp_path: Path) -> None:
    """At first, after a push of somebody else, after a switch, after a failure, and every so many deltas."""

    async def story(there: FullStack) -> None:
        def push(client: Client, seed: int, **options: Any) -> bool:
            """Whether it was a delta."""
            done = client.push_weights(tensors_of(weights(seed)), delta=True, **options)
            assert done.changed > 0
            return done.base is not None

        def story_of_a_client() -> None:
            with Client(there.url) as client, Client(there.url) as other:
                assert [push(client, seed) for seed in (1, 2, 3)] == [False, True, True]
                assert not push(other, 4)
                assert [push(client, seed) for seed in (5, 6)] == [False, True]
                client.set_active_model(MODEL)
                assert [push(client, seed) for seed in (7, 8)] == [False, True]
                with pytest.raises(Invalid, match=r"layer\.2 is missing"):
                    client.push_weights({"layer.0": tensors_of(OTHER)["layer.0"]}, delta=True)
                assert [push(client, seed, anchor_every=2) for seed in range(9, 15)] == [False, True, True] * 2

        await asyncio.to_thread(story_of_a_client)
        digest = (await served(there))[1]
        assert await pushed(there, weights(14)) == digest

    run_story(tmp_path, story)


def test_a_base_that_goes_while_its_delta_comes(tmp_path: Path) -> None:
    """The source is read once, and everything is sent of what was kept."""

    class Overtaken(httpx.AsyncHTTPTransport):
        """Somebody else pushes after this client has asked what the server has."""

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if request.headers.get("content-type") == MEDIA_TYPE:
                await pushed(self.there, weights(9))
            return await super().handle_async_request(request)

        there: FullStack

    async def story(there: FullStack) -> None:
        transport = Overtaken()
        transport.there = there
        async with AsyncClient(there.url, transport=transport) as client:
            await client.push_weights(tensors_of(OTHER), delta=True)
            done = await client.push_weights(iter(tensors_of(ONE).items()), delta=True)
            assert (done.base, done.version) == (None, 3)
            assert await served(there) == ("3", done.digest)
            with pytest.raises(Invalid, match=r"layer\.2 is missing"):
                await client.push_weights(iter(list(tensors_of(OTHER).items())[:2]), delta=True)
            await pushed(there, ONE)
        assert await pushed(there, ONE) == done.digest

    run_story(tmp_path, story)


def test_a_model_in_float32_is_compared_in_the_servers_types_and_its_memory_is_not_kept(tmp_path: Path) -> None:
    """Bit for bit as it was sent: what the trainer does to its tensors afterwards is the next push's."""
    expected = ExpectedWeights.model_validate(
        {
            "id": "m", "version": 1, "digest": "d", "delta_base": "d", "bytes": 8,
            "tensors": [{"name": "w", "dtype": "BF16", "shape": [4]}],
        }
    )  # fmt: skip
    tensor = torch.tensor([1.0, 2.0, 3.0, 4.0])
    first = DeltaPush.of({"w": tensor}, expected, None, None, 9)
    assert len(b"".join(map(bytes, first.body.pieces))) > 8
    tensor[1] += 1e-6  # no other bfloat16
    answer = PushedWeights.model_validate(
        dict.fromkeys(("version", "bytes", "changed", "tensors", "in_flight"), 1)
        | dict.fromkeys(("received_ms", "checked_ms", "paused_ms", "held_ms"), 1.0)
        | {"id": "m", "digest": "d"}
    )
    second = DeltaPush.of({"w": tensor}, expected, None, first.keeps(answer), 9)
    assert b'"w":' not in b"".join(map(bytes, second.body.pieces)), "nothing changed"
    tensor[2] = 3.5
    third = DeltaPush.of({"w": tensor}, expected, None, second.keeps(answer), 9)
    assert b'"w":' in b"".join(map(bytes, third.body.pieces))


def test_a_trainers_hook_sends_what_changed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def story(there: FullStack) -> None:
        caplog.set_level(logging.INFO)

        def train() -> None:
            with Client(there.url) as client:
                hook = StepserveCallback("run", push="weights", delta=True, probe=False, client=client)
                arguments = SimpleNamespace(output_dir=str(tmp_path / "out"), deepspeed=None, fsdp=None)
                for step in (1, 2):
                    state = SimpleNamespace(is_world_process_zero=True, global_step=step, log_history=[])
                    source = tensors_of((OTHER, ONE)[step - 1])
                    hook.on_step_end(arguments, state, None, model=SimpleNamespace(state_dict=lambda s=source: s))
                hook.on_train_end(arguments, state, None)

        await asyncio.to_thread(train)
        now = await shown(there)
        assert (now["version"], now["weight_version"]) == (2, "run-step-2")
        assert await pushed(there, ONE) == now["digest"]

    run_story(tmp_path, story)
    with pytest.raises(ValueError, match="delta=True is for"):
        StepserveCallback("run", delta=True)
