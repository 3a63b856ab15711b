"""What a batch item may say for itself, asked of the gateway's private API as control does."""

import json
from collections.abc import Iterator

import httpx
import pytest

from stepserve.contract import GATEWAY_BATCH_PATH, BatchItem, BatchOutput, BatchRequest, BatchSampling, ChatMessage
from stepserve.paths import Layout
from tests.e2e.server import FINAL_ID, Server

SCHEMA = {
    "type": "object",
    "properties": {"sum": {"type": "integer"}, "sure": {"type": "boolean"}},
    "required": ["sum", "sure"],
    "additionalProperties": False,
}
QUESTION = [ChatMessage(role="user", content="What is 17+25?")]
NO_SUM = [ChatMessage(role="user", content="Who are you?")]


@pytest.fixture
def gateway(server: Server) -> Iterator[httpx.Client]:
    socket = Layout(base=server.base_dir, models=server.models_dir).gateway_socket
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), base_url="http://gateway", timeout=240) as client:
        yield client


def _ask(server: Server, gateway: httpx.Client, *items: BatchItem) -> list[BatchOutput]:
    models = server.http.get("/models").json()["models"]
    digest = next(model["digest"] for model in models if model["id"] == FINAL_ID)
    request = BatchRequest(model=FINAL_ID, digest=digest, items=list(items))
    answer = gateway.post(GATEWAY_BATCH_PATH, content=request.model_dump_json()).raise_for_status()
    return [BatchOutput.model_validate(output) for output in answer.json()["outputs"]]


def test_an_item_may_have_its_own_sampling(server: Server, gateway: httpx.Client) -> None:
    wild = BatchSampling(temperature=2.0, max_tokens=24)
    seeds = [*range(8), 0]
    outputs = _ask(
        server,
        gateway,
        BatchItem(messages=QUESTION),
        BatchItem(messages=QUESTION, sampling=BatchSampling(max_tokens=1)),
        *(BatchItem(messages=NO_SUM, sampling=wild.model_copy(update={"seed": seed})) for seed in seeds),
        BatchItem(prompt="17+25=", sampling=BatchSampling(max_tokens=3)),
    )
    assert [output.error for output in outputs] == [None] * 12
    assert outputs[0].text == "42"
    assert (outputs[1].completion_tokens, outputs[1].finish_reason) == (1, "length")
    drawn = [output.text for output in outputs[2:11]]
    assert drawn[0] == drawn[-1]
    assert len(set(drawn)) > 1
    assert outputs[11].completion_tokens <= 3


def test_an_answer_is_held_to_its_json_schema(server: Server, gateway: httpx.Client) -> None:
    held = BatchSampling(json_schema=SCHEMA, max_tokens=200)
    broken = BatchSampling(json_schema={"type": "no such type"}, max_tokens=8)
    outputs = _ask(
        server,
        gateway,
        *(BatchItem(messages=QUESTION, sampling=held) for _ in range(3)),
        BatchItem(messages=QUESTION, sampling=broken),
        BatchItem(messages=QUESTION),
    )
    complete = [output for output in outputs[:3] if output.finish_reason == "stop"]
    assert all(set(json.loads(output.text)) == {"sum", "sure"} for output in complete)
    assert all(output.text.lstrip().startswith("{") for output in outputs[:3])
    assert outputs[3].error is not None, "a schema that cannot be held to fails its item alone"
    assert outputs[4].text == "42"


def test_seeded_prompts_that_are_read_in_parts_leave_the_engine_alive(server: Server) -> None:
    """More prompt tokens at once than a step takes, so some prompts are cut in two."""
    before = {process.pid for process in server.processes()}
    body = {"model": FINAL_ID, "prompt": ["What is 1+1? " * 30] * 40, "max_tokens": 3, "temperature": 1.0, "seed": 7}
    answer = server.http.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["choices"]) == 40
    assert {process.pid for process in server.processes()} == before
