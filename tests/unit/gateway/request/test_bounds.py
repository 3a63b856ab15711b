"""What is refused of a body before anything is made of it."""

import asyncio
import json
from typing import Any

import pytest

from gateway.errors import InvalidField, InvalidRequest
from gateway.inference.dispatch import Dispatch
from gateway.request.body import RequestBody
from gateway.request.bounds import HARMLESS_BYTES, RequestBounds
from gateway.request.texts import Texts, measured
from gateway.serving.gate import Gate
from gateway.serving.slot import Slot
from tests.unit.gateway.fakes import FakeClient, FakeEngine, model, router_over

BOUNDS = RequestBounds(max_sequences=8, max_text_chars=50_000, max_values=100_000)
TOOL_RESULT = {
    "type": "tool_result",
    "tool_use_id": "1",
    "content": [{"type": "image", "source": {"data": "x" * 99}}, {"type": "text", "text": "x" * 50}],
}
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def encoded(**body: Any) -> bytes:
    return json.dumps(body).encode()


def said(text: Any, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": text, **more}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (encoded(prompt="x", n=9), "n"),
        (encoded(prompt="x", n="9"), "n"),
        (encoded(prompt="x", n=9.0), "n"),
        (encoded(prompt="x", n=16384), "n"),
        (encoded(prompt=["x"] * 3, n=3), "n"),
        (encoded(prompt=["x"] * 9), "prompt"),
        (encoded(prompt=[[1, 2]] * 9), "prompt"),
        (encoded(prompt="x", best_of=9), "best_of"),
        (encoded(prompt="x", n=1, best_of=9), "best_of"),
        (encoded(prompt="x", num_return_sequences=9), "num_return_sequences"),
        (encoded(prompt=["x"] * 5, prompt_embeds=["eA=="] * 4), "prompt"),
        (encoded(messages=[], n=9), "n"),
        (encoded(input=["x"] * 2049), "input"),
        (encoded(input=[[1]] * 2049), "input"),
    ],
)
def test_more_sequences_than_an_engine_works_on(body: bytes, field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        BOUNDS.estimate_now(RequestBody(body), "/v1/embeddings" if field == "input" else COMPLETIONS)
    assert caught.value.param == field
    assert "8" in str(caught.value) or "2048" in str(caught.value)


@pytest.mark.parametrize(
    ("body", "sequences"),
    [
        (encoded(prompt="x", n=8), 8),
        (encoded(prompt=["x"] * 4, n=2), 8),
        (encoded(prompt=[[1, 2], [3]], n=4), 8),
        (encoded(prompt=list(range(9))), 1),
        (encoded(prompt=[]), 1),
        (encoded(messages=[said("x")] * 9, n=None), 1),
        (encoded(input=["x"] * 2048), 2048),
        (encoded(input=[said("x")] * 9), 1),
        (encoded(input=list(range(9))), 1),
    ],
)
def test_as_many_sequences_as_an_engine_works_on(body: bytes, sequences: int) -> None:
    path = "/v1/embeddings" if b'"input"' in body else COMPLETIONS
    assert BOUNDS.estimate_now(RequestBody(body), path).sequences.total == sequences


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (encoded(tokens=[1] * 100_000), "tokens"),
        (encoded(prompt=[1] * 100_000), "prompt"),
        (encoded(prompt=[[1] * 100] * 1000), "prompt"),
        (encoded(allowed_token_ids=[1] * 16_385), "allowed_token_ids"),
        (encoded(stop_token_ids=[1] * 16_385), "stop_token_ids"),
        (encoded(logit_bias={str(number): 1 for number in range(16_385)}), "logit_bias"),
        (encoded(stop=["ab" * 150] * 65), "stop"),
        (encoded(stop="x" * 17_000), "stop"),
        (encoded(stop_sequences=["x" * 17_000]), "stop_sequences"),
        (encoded(bad_words=["x" * 200] * 257), "bad_words"),
        (encoded(bad_words=["x" * 8_500] * 2), "bad_words"),
        (encoded(tokens=[-1] * 9_000), "tokens"),
        (encoded(tokens=[[1]] * 9_000), "tokens"),
        (encoded(context=[1.5] * 9_000), "context"),
        (encoded(prompt=[1.5] * 9_000), "prompt"),
        (encoded(prompt=[10**19] * 9_000), "prompt"),
        (encoded(prompt=[1, [1]] * 9_000), "prompt"),
        (encoded(prompt=[[[1]]] * 9_000), "prompt"),
        (encoded(prompt=[None] * 9_000), "prompt"),
        (encoded(input=[[1.5] * 9_000]), "input"),
        (encoded(messages=[said([1] * 9_000)]), "messages"),
        (encoded(tools=[1] * 9_000), "tools"),
        (encoded(messages=[said("x")] * 20_000), "messages"),
        (encoded(messages=[said([{"type": "text", "text": "x"}] * 20_000)]), "messages"),
        (encoded(messages=[said("x", tool_calls=[[]] * 40_000)]), "messages"),
        (encoded(input=[said("x")] * 20_000), "input"),
        (encoded(tools=[{"type": "function", "function": {"name": "x"}}] * 12_000), "tools"),
        (encoded(documents=[{"text": "x"}] * 20_000), "documents"),
        (encoded(chat_template_kwargs={str(number): 1 for number in range(40_000)}), "chat_template_kwargs"),
        (encoded(unknown=[0] * 40_000), "unknown"),
        (encoded(user="u" * 20_000), "user"),
        (encoded(metadata={"a": "u" * 70_000}), "metadata"),
        (encoded(model="m" * 1_000_000, prompt="x"), "model"),
        (encoded(model="m" * 513, prompt="x"), "model"),
        (encoded(model_id="m" * 513, prompt="x"), "model"),
        (encoded(request_id="m" * 513, prompt="x"), "request_id"),
        (encoded(name="m" * 20_000), "name"),
    ],
)
def test_a_field_that_holds_too_much_is_named(body: bytes, field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        BOUNDS.estimate_now(RequestBody(body))
    assert caught.value.param == field
    assert "at most" in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (encoded(prompt="x", top_k=2**64), "top_k"),
        (encoded(prompt="x", seed=-(2**63) - 1), "seed"),
        (encoded(messages=[said("x")], options={"top_k": 10**30}), "options"),
        (b'{"prompt":"x","max_tokens":' + b"9" * 5000 + b"}", "max_tokens"),
        (encoded(prompt="x" * 40_000, repetition_detection=[10**20]), "repetition_detection"),
    ],
)
def test_a_number_that_no_engine_can_hold(body: bytes, field: str) -> None:
    with pytest.raises(InvalidField, match="64 bits") as refused:
        BOUNDS.estimate_now(RequestBody(body), COMPLETIONS)
    assert refused.value.param == field


@pytest.mark.parametrize(
    "body",
    [
        encoded(prompt="9" * 40, seed=2**63 - 1),
        encoded(messages=[said("x")], tools=[{"maximum": 10**30}]),
        encoded(prompt='he said "' + "9" * 40 + '"', seed=-(2**63)),
        encoded(prompt="x", temperature=0.12345678901234567890123),
        b'{"prompt":"x","temperature":10000000000000000000000.5,"top_p":1e0000000000000000000000}',
    ],
)
def test_digits_that_are_no_such_number(body: bytes) -> None:
    BOUNDS.estimate_now(RequestBody(body), COMPLETIONS)


def test_a_conversation_is_no_list_of_tokens() -> None:
    body = encoded(input=[1] * 9_000)
    BOUNDS.estimate_now(RequestBody(body), "/v1/embeddings")
    with pytest.raises(InvalidField, match="at most 8192"):
        BOUNDS.estimate_now(RequestBody(body), "/v1/responses")


@pytest.mark.parametrize(
    "body",
    [
        b'{"messages":' + b"[" * 129 + b"]" * 129 + b"}",
        b'{"x": "' + b"a" * HARMLESS_BYTES + b'", "messages":' + b"[" * 129 + b"]" * 129 + b"}",
        b'{"a":' * 200 + b"1" + b"}" * 200,
        b'{"x": ' + b'[{"a": 1},' * 200 + b"1" + b"]" * 200 + b"}",
        b'{"messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_a_deep_body(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="nested too deeply"):
        BOUNDS.estimate_now(RequestBody(body))


@pytest.mark.parametrize("body", [b"no JSON" * 10_000, b"[1" + b",1" * 10_000, b"[" + b"1," * 10_000 + b"1]"])
def test_a_large_body_that_no_parser_need_try(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="JSON"):
        BOUNDS.estimate_now(RequestBody(body))


@pytest.mark.parametrize(
    "body",
    [
        b'{"prompt":[' + b'"",' * 300_000 + b'""]}',
        b'{"x":[' + b'"a,b",' * 70_000 + b'""]}',
        b"{" + b",".join(b'"%d":["a","b"]' % number for number in range(100_000)) + b"}",
    ],
)
def test_a_body_of_strings_alone(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="strings"):
        BOUNDS.estimate_now(RequestBody(body))


@pytest.mark.parametrize(
    "body",
    [
        encoded(prompt="a, [b], {c} " * 20_000),
        encoded(prompt='say \\"a, b\\" \\\\ and "c, [" ' * 10_000),
        encoded(messages=[said("a, b, [c] {d} " * 9_000)] * 20),
        encoded(messages=[said("x", name="y") for _ in range(2_000)]),
        encoded(messages=[said([{"type": "image_url", "image_url": {"url": "data:," + "A" * 300_000}}])]),
        encoded(prompt=[[1] * 12_000] * 8),
        encoded(prompt=list(range(90_000))),
        encoded(input=[[151_643, 2, 3] * 10] * 2_000),
        encoded(tokens=[2**59] * 9_000),
        json.dumps({"tokens": [1] * 9_000}, indent=2).encode(),
        encoded(allowed_token_ids=list(range(16_000)), prompt="x"),
        encoded(bad_words=["some words"] * 128, prompt="x" * 20_000),
        encoded(messages=[said("[" * 5_000)]),
        b'{"messages":' + b"[" * 100 + b"]" * 100 + b"}",
        encoded(messages=[[[[]]]] * 200),
        b"",
    ],
)
def test_what_a_body_may_hold(body: bytes) -> None:
    """Whoever parses it later may still have something to say against it."""
    BOUNDS.estimate_now(RequestBody(body))


def test_a_large_body_is_looked_into_beside_the_event_loop() -> None:
    async def scenario() -> None:
        body = encoded(prompt="x", allowed_token_ids=[1] * 3_000_000)
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        going_on = asyncio.create_task(others())
        with pytest.raises(InvalidField, match="JSON values"):
            await BOUNDS.estimate(RequestBody(body), COMPLETIONS)
        going_on.cancel()
        assert turns > 1

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("path", "body", "texts"),
    [
        (COMPLETIONS, encoded(prompt="x" * 10), Texts("prompt", 10)),
        (COMPLETIONS, encoded(prompt=["x" * 10, "x" * 30, "x"]), Texts("prompt", 30)),
        (COMPLETIONS, encoded(prompt=[1, 2, 3]), Texts("prompt", 0)),
        (COMPLETIONS, encoded(prompt="x", truncate_prompt_tokens=10), Texts("prompt", 1, cut=True)),
        (COMPLETIONS, encoded(prompt="x", truncate_prompt_tokens=None), Texts("prompt", 1)),
        (COMPLETIONS, encoded(prompt="é" * 10), Texts("prompt", 10)),
        ("/tokenize", encoded(prompt="x" * 5), Texts("prompt", 5, cut=True)),
        ("/tokenize", encoded(messages=[said("x" * 9)]), Texts("messages", 13, cut=True)),
        ("/detokenize", encoded(tokens=[1, 2, 3]), Texts("tokens", 0, 3, cut=True)),
        ("/v1/embeddings", encoded(input=["x" * 3, "y" * 8]), Texts("input", 8)),
        ("/v1/responses", encoded(input="x" * 8, instructions="y" * 3), Texts("input", 11)),
        (CHAT, encoded(messages=[said("x" * 6), said("y" * 6)]), Texts("messages", 20)),
        ("/v1/messages", encoded(messages=[said("x")], system="s" * 50), Texts("system", 55)),
        (CHAT, encoded(messages=[said([{"type": "image_url", "image_url": {"url": "x" * 9}}])]), Texts("messages", 4)),
        ("/v1/messages", encoded(messages=[said([TOOL_RESULT])]), Texts("messages", 4 + 11 + 1 + 4 + 50)),
        (CHAT, encoded(messages=[], tools=[{"function": {"description": "x" * 99}}]), Texts("tools", 99)),
        (CHAT, encoded(messages=[], tools=[{"url": "x" * 99, "type": "image_url"}]), Texts("tools", 108)),
        (CHAT, encoded(messages=[{"tool_calls": [{"arguments": {"url": "x" * 99}}]}]), Texts("messages", 99)),
        (CHAT, encoded(messages=[{"k" * 99: 1}]), Texts("messages", 99)),
        (CHAT, b"[]", Texts()),
    ],
)  # fmt: skip
def test_how_long_the_texts_are(path: str, body: bytes, texts: Texts) -> None:
    assert measured(RequestBody(body), path) == texts


@pytest.mark.parametrize(
    ("texts", "fits"),
    [
        (Texts("prompt", 1200), True),
        (Texts("prompt", 1201), False),
        (Texts("prompt", 50_000, cut=True), True),
        (Texts("prompt", 50_001, cut=True), False),
        (Texts("tokens", tokens=64 * 1024, cut=True), True),
        (Texts("tokens", tokens=64 * 1024 + 1, cut=True), False),
    ],
)
def test_what_fits_into_a_context_of_100_tokens(texts: Texts, fits: bool) -> None:
    if fits:
        texts.check(BOUNDS.max_text_chars, 100, 12)
        return
    with pytest.raises(InvalidField, match="at most"):
        texts.check(BOUNDS.max_text_chars, 100, 12)


def test_a_long_context_takes_what_it_can_hold() -> None:
    Texts("prompt", 800_000, cut=True).check(BOUNDS.max_text_chars, 100_000, 4)
    Texts("prompt", 400_000).check(BOUNDS.max_text_chars, 100_000, 4)
    with pytest.raises(InvalidField, match="maximum context length is 100000 tokens"):
        Texts("prompt", 400_001).check(BOUNDS.max_text_chars, 100_000, 4)
    with pytest.raises(InvalidField, match="max_text_chars"):
        Texts("prompt", 800_001).check(BOUNDS.max_text_chars, 100_000, 128)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (COMPLETIONS, encoded(model="a", prompt="ab " * 10_000), "prompt"),
        (COMPLETIONS, encoded(model="a", prompt="ab " * 20_000, truncate_prompt_tokens=10), "prompt"),
        ("/tokenize", encoded(model="a", prompt="ab " * 20_000), "prompt"),
        ("/detokenize", encoded(model="a", tokens=[1] * 70_000), "tokens"),
        (COMPLETIONS, encoded(model="a", prompt=["1+1="] * 100, n=16_384), "n"),
        (COMPLETIONS, encoded(model="a" * 1_000_000, prompt="x"), "model"),
    ],
)
async def test_a_refusal_is_in_the_envelope_and_reaches_no_engine(path: str, body: bytes, param: str) -> None:
    gate = Gate(1, 1.0)
    engine = FakeEngine(model("a"))
    gate.open(Slot(model("a"), engine, 1.0))
    client = FakeClient(body, path)
    await Dispatch(router_over(gate), 10_000_000, bounds=BOUNDS)(client.scope, client.receive, client.send)
    assert client.status == 400
    assert json.loads(client.body)["error"]["param"] == param
    assert not engine.entered.is_set()
