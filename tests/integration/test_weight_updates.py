"""vLLM's routes for trainers over real sockets, with control and a database, over an engine that is a fake."""

import asyncio
import json
import re
import socket
import time
from pathlib import Path

import httpx
import pytest

from stepserve.access_settings import AccessSettings
from stepserve.settings import WeightsSettings
from tests.eventually import eventually
from tests.integration.full_stack import MODEL, FullStack, bearer, run_story
from tests.integration.test_weights import OTHER, digest_of_files, safetensors, served
from tests.unit.control.checkpoint_files import write_checkpoint

INIT = {"init_info": {"backend": "http"}}
NAMES = list(OTHER)


async def post(there: FullStack, path: str, **request: object) -> httpx.Response:
    return await there.http.post(path, **request)  # type: ignore[arg-type]  # httpx's parameters, as a test names them


async def begun(there: FullStack, query: str = "") -> None:
    for path, body in (("/init_weight_transfer_engine", INIT), (f"/start_weight_update{query}", {})):
        answer = await there.http.post(path, json=body)
        assert answer.status_code == 200, answer.text


async def is_paused(there: FullStack) -> bool:
    return bool((await there.http.get("/is_paused")).json()["is_paused"])


async def is_updating(there: FullStack) -> bool:
    return bool((await there.http.get(f"/models/{MODEL}/weights")).json()["pushing"])


def test_an_update_in_phases(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        assert (await there.http.get("/v1/models")).json()["data"][0]["id"] == MODEL
        assert (await there.http.get("/get_world_size")).json() == {"world_size": 1}
        await begun(there)
        for count, (name, data) in enumerate(OTHER.items(), 1):
            answer = await post(there, "/update_weights", content=safetensors({name: data}))
            assert answer.json() == {"message": "Weights updated", "tensors": count}
            assert (await served(there))[0] == "0", "nothing of it reaches the engine before the finish"
        done = (await post(there, "/finish_weight_update", json={"weight_version": "step-7"})).json()
        assert (done["version"], done["weight_version"], done["proof"]["kind"]) == (1, "step-7", "changed")
        assert await served(there) == ("1", done["digest"])
        shown = (await there.http.get("/weight_info")).json()
        assert shown == {"weight_version": "step-7", "version": 1, "digest": done["digest"]}
        await begun(there)
        await post(there, "/update_weights", content=safetensors(OTHER))
        assert (await post(there, "/finish_weight_update")).json()["version"] == 2, "an empty body counts a version too"
        assert (await post(there, "/reset_prefix_cache")).json() == {"success": True}

    run_story(tmp_path, story)


def test_what_is_told_of_the_server_is_what_trainers_read(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        told = (await there.http.get("/server_info", params={"config_format": "json"})).json()
        config = told.pop("vllm_config")
        assert not told
        assert config["weight_transfer_config"] == {"backend": "http"}
        assert config["model_config"] == {
            "model": MODEL,
            "dtype": "torch.bfloat16",
            "max_model_len": 512,
            "logprobs_mode": "raw_logprobs",
        }
        assert str(tmp_path) not in json.dumps(config)
        assert isinstance((await there.http.get("/server_info")).json()["vllm_config"], str)

    run_story(tmp_path, story)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (safetensors({"x": b"1"}), "x is not a tensor of the model"),
        (safetensors({NAMES[0]: b"1"}), f"{NAMES[0]} has the shape"),
        (safetensors({NAMES[0]: OTHER[NAMES[0]]}) * 2, f"{NAMES[0]} is there 2 times"),
        (safetensors(OTHER)[:-1], "the body is torn"),
        (b"", "the body is torn"),
        ({"names": ["x"], "dtype_names": ["uint8"], "shapes": [[1]]}, "x is not a tensor of the model"),
        ({"names": [NAMES[0]], "dtype_names": ["int8"], "shapes": [[16]]}, f"{NAMES[0]} is I8, not U8"),
    ],
)
def test_a_piece_that_is_wrong_ends_the_update(tmp_path: Path, content: object, words: str) -> None:
    async def story(there: FullStack) -> None:
        before = await served(there)
        await begun(there, "?mode=wait")
        body = {"content": content} if isinstance(content, bytes) else {"json": {"update_info": content}}
        answer = await post(there, "/update_weights", **body)
        assert (answer.status_code, answer.json()["code"]) == (422, "bad_weights"), answer.text
        assert words in answer.json()["detail"]
        late = await post(there, "/finish_weight_update")
        assert (late.status_code, late.json()["code"]) == (409, "update_refused")
        assert words in late.json()["detail"]
        await eventually(lambda: is_paused(there), lambda paused: not paused)
        assert await served(there) == before
        assert there.engine.reloads == 0

    run_story(tmp_path, story)


def test_what_was_sent_before_and_what_is_missing(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        before = await served(there)
        one = safetensors({NAMES[0]: OTHER[NAMES[0]]})
        await begun(there)
        await post(there, "/update_weights", content=one)
        again = await post(there, "/update_weights", content=one)
        assert (again.status_code, f"{NAMES[0]} was sent already" in again.text) == (422, True)
        await begun(there)
        await post(there, "/update_weights", content=one)
        short = await post(there, "/finish_weight_update", json={})
        assert (short.status_code, short.json()["code"]) == (422, "bad_weights")
        assert f"{NAMES[1]} is missing" in short.json()["detail"]
        assert await served(there) == before

    run_story(tmp_path, story)


def test_an_update_that_fails_its_proof_is_taken_back(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        before = await served(there)
        await begun(there, "?mode=keep")
        await post(there, "/update_weights", content=safetensors(OTHER | {"layer.0": b"NaN" + OTHER["layer.0"][3:]}))
        failed = await post(there, "/finish_weight_update", json={})
        body = failed.json()
        assert (failed.status_code, body["code"], body["rolled_back_to"]) == (422, "proof_failed", 0)
        assert not await is_paused(there)
        assert await served(there) == before

    run_story(tmp_path, story)


def test_one_update_at_a_time(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        early = await post(there, "/start_weight_update", json={})
        assert (early.status_code, "POST /init_weight_transfer_engine first" in early.text) == (409, True)
        await begun(there)
        for path, body in (("/start_weight_update", {}), ("/init_weight_transfer_engine", INIT)):
            answer = await post(there, path, json=body)
            assert (answer.status_code, answer.json()["code"]) == (409, "update_refused")
        pushed = await there.http.put(f"/models/{MODEL}/weights", content=safetensors(OTHER))
        assert (pushed.status_code, pushed.json()["code"]) == (409, "push_in_progress")
        assert (await post(there, "/shutdown_weight_transfer_engine")).status_code == 200
        assert not await is_updating(there)

    run_story(tmp_path, story)


def test_an_update_is_its_keys(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        one, two = [bearer(await there.key(scopes=["weights"])) for _ in range(2)]
        infer = bearer(await there.key(scopes=["infer"]))
        assert (await post(there, "/pause")).status_code == 401
        assert (await post(there, "/pause", headers=infer)).status_code == 403
        for path, body in (("/init_weight_transfer_engine", INIT), ("/start_weight_update", {})):
            await post(there, path, json=body, headers=one)
        for path in ("/update_weights", "/finish_weight_update", "/shutdown_weight_transfer_engine"):
            answer = await post(there, path, headers=two)
            assert (answer.status_code, "another key" in answer.text) == (409, True), path
        assert (await post(there, "/update_weights", content=safetensors(OTHER), headers=one)).status_code == 200
        assert (await post(there, "/finish_weight_update", headers=one)).status_code == 200

    run_story(tmp_path, story)


def test_a_trainer_that_says_nothing_more_loses_its_update(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        await begun(there, "?mode=wait")
        assert await is_paused(there)
        await eventually(lambda: is_updating(there), lambda updating: not updating)
        late = await post(there, "/finish_weight_update")
        assert (late.status_code, "said nothing for 0.2 s" in late.text) == (409, True)
        assert (await served(there))[0] == "0"

    run_story(tmp_path, story, weights=WeightsSettings(update_timeout_s=0.2))


def test_a_trainer_that_is_cut_off_in_the_middle_of_a_piece(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        await begun(there)
        body = safetensors(OTHER)
        host, port = there.url.removeprefix("http://").split(":")
        head = f"POST /update_weights HTTP/1.1\r\nhost: {host}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        with socket.create_connection((host, int(port))) as trainer:
            trainer.sendall(head + body[:64])
        await eventually(lambda: is_updating(there), lambda updating: not updating)
        assert "The body ended after" in (await post(there, "/finish_weight_update")).json()["detail"]
        await begun(there)
        await post(there, "/update_weights", content=body)
        assert (await post(there, "/finish_weight_update")).status_code == 200

    run_story(tmp_path, story)


def test_tensors_may_be_announced_and_sent_beside_that(tmp_path: Path) -> None:
    """As by vLLM's trainers, whose tensors take another way than their announcement."""

    async def story(there: FullStack) -> None:
        await begun(there)
        info = {"names": NAMES, "dtype_names": ["uint8"] * 3, "shapes": [[len(data)] for data in OTHER.values()]}
        announcing = asyncio.create_task(post(there, "/update_weights", json={"update_info": [info]}))
        assert (await post(there, "/update_weights", content=safetensors(OTHER))).status_code == 200
        assert (await announcing).status_code == 200
        assert (await post(there, "/finish_weight_update", json={})).status_code == 200
        await begun(there)
        announcing = asyncio.create_task(post(there, "/update_weights", json={"update_info": info}))
        await asyncio.sleep(0)
        await post(there, "/shutdown_weight_transfer_engine")
        assert (await announcing).status_code == 409

    run_story(tmp_path, story)


def test_a_pause_holds_requests_and_refuses_switches(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        files = await digest_of_files(there)
        assert (await post(there, "/pause?mode=wait")).json() == {"status": "paused"}
        assert (await there.http.get("/health")).status_code == 200
        assert (await there.http.get("/status")).json()["paused"]
        later = asyncio.create_task(there.chat())
        await eventually(lambda: _held(there), lambda held: held == 1)
        write_checkpoint(there.settings.layout.models / "b", seed=5)
        await post(there, "/models/register", json={"id": "b", "source": "t"})
        switch = await post(there, "/models/set_active", json={"id": "b"})
        assert (switch.status_code, "paused" in switch.text) == (409, True), switch.text
        await begun(there)
        await post(there, "/update_weights", content=safetensors(OTHER))
        done = (await post(there, "/finish_weight_update", json={})).json()
        assert done["digest"] != files
        assert not later.done(), "the pause is the trainer's to end"
        assert (await post(there, "/resume")).json() == {"status": "resumed"}
        assert (await later).headers["x-model-version"] == "1"
        for path, words in (
            ("/pause?mode=soon", "mode: must be one of"),
            ("/pause?mod=keep", "mod: is not a parameter"),
        ):
            refused = await post(there, path)
            assert (refused.status_code, words in refused.text) == (422, True), refused.text

    run_story(tmp_path, story)


def test_an_answer_that_an_update_went_through_says_so(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        async def counted(name: str) -> float:
            found = re.search(rf"^{name} (\S+)$", (await there.http.get("/metrics")).text, re.MULTILINE)
            assert found is not None, name
            return float(found[1])

        began_s, before = time.time(), await counted("stepserve_answers_across_versions_total")
        there.engine.release.clear()
        crossed = asyncio.create_task(there.chat())
        await there.engine.entered.wait()
        assert (await there.http.put(f"/models/{MODEL}/weights?in_flight=keep", content=safetensors(OTHER))).is_success
        there.engine.release.set()
        answer = await crossed
        assert (answer.headers["x-model-version"], answer.headers["x-model-versions"]) == ("0", "0-1")
        assert "x-model-versions" not in (await there.chat()).headers
        assert await counted("stepserve_answers_across_versions_total") == before + 1
        assert began_s <= await counted("stepserve_weight_push_timestamp_seconds") <= time.time()

    run_story(tmp_path, story)


def test_a_stream_says_from_where_on_it_is_of_other_weights(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        there.engine.content_type = b"text/event-stream; charset=utf-8"
        there.engine.says = b"data: two\n\n"
        there.engine.release.clear()
        async with there.http.stream("POST", "/v1/chat/completions", json={"model": MODEL}) as answer:
            pieces = answer.aiter_bytes()
            assert (answer.headers["x-model-version"], await anext(pieces)) == ("0", b"data: one\n\n")
            for number in (1, 2):
                body = safetensors(OTHER | {"layer.0": bytes([number] * 16)})
                pushed = await there.http.put(f"/models/{MODEL}/weights?in_flight=keep", content=body)
                assert pushed.json()["version"] == number
            files = await there.http.post("/models/set_active", json={"id": MODEL, "in_flight": "keep"})
            assert files.status_code == 200, files.text
            there.engine.release.set()
            rest = b"".join([piece async for piece in pieces])
        assert rest == b": x-model-version: 1\n\n: x-model-version: 2\n\n: x-model-version: 0\n\ndata: two\n\n"
        assert ": x-model" not in (await there.chat()).text

    run_story(tmp_path, story)


def test_a_pause_that_nobody_ends_is_over_by_itself(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        await post(there, "/pause?mode=keep")
        assert (await there.chat()).status_code == 200

    run_story(tmp_path, story, weights=WeightsSettings(max_pause_s=0.2))


async def _held(there: FullStack) -> int:
    return int((await there.http.get("/status")).json()["held_requests"])


def test_trainers_without_a_key_are_let_in_from_where_the_settings_say(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        key = await there.key(scopes=["infer"])
        for path in ("/v1/models", "/server_info", "/get_world_size"):
            assert (await there.http.get(path)).status_code == 200, path
        assert (await there.chat()).status_code == 200
        assert (await there.http.get("/keys")).status_code == 401
        assert (await there.http.get("/server_info", headers=bearer(key))).status_code == 403
        page = await post(there, "/pause", headers={"origin": "https://elsewhere.example"})
        assert page.status_code == 403

    run_story(tmp_path, story, access=AccessSettings(trainers=["127.0.0.0/8"]))


def test_a_group_of_processes_is_not_joined(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        info = {"master_address": "127.0.0.1", "master_port": 1, "rank_offset": 1, "world_size": 2}
        answer = await post(there, "/init_weight_transfer_engine", json={"init_info": info})
        assert (answer.status_code, "must be 'http'" in answer.text) == (422, True)

    run_story(tmp_path, story)


def test_an_announcement_of_a_million_faults_is_refused_by_its_first(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        await begun(there)
        content = (
            b'{"update_info": {"names": [' + b",".join([b"1"] * 1_000_000) + b'], "dtype_names": [], "shapes": []}}'
        )
        answer = await post(there, "/update_weights", content=content, headers={"content-type": "application/json"})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request"), answer.text
        assert "$.update_info.names[0]" in answer.json()["detail"]
        assert await is_updating(there), "nothing was announced, so nothing is wrong with the update"

    run_story(tmp_path, story)
