"""Responses that are gone on from, and conversations, as the openai SDK asks for them: over real sockets, with control
and its database, over an engine that says what it was shown.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from control.clock import utc_now
from control.database.database import Database, url_of
from control.errors import Invalid, NotFound
from control.responses import store as store_module
from control.responses.conversations import Conversations
from control.responses.room import Room
from control.responses.store import ResponseStore
from gateway.http.asgi import Receive, Scope, Send, read_body
from stepserve.contract import ModelRef
from stepserve.settings import FilterSetting
from stepserve.stored_responses import ContextRequest, KeptResponse, StoredResponsesSettings
from tests.eventually import eventually
from tests.integration.control_plane import settings_of
from tests.integration.full_stack import MODEL, FullStack, full_stack, run_story, running_control
from tests.integration.long_lived import LongLived, long_lived
from tests.unit.control.checkpoint_files import write_checkpoint
from tests.unit.gateway.fakes import FakeEngine


class Telling(FakeEngine):
    """On /v1/responses as vLLM, which keeps nothing; each answer is what the model was shown."""

    def __init__(self, ref: ModelRef) -> None:
        super().__init__(ref)
        self.seen: list[Any] = []

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = json.loads(await read_body(receive, 1 << 20))
        self.seen.append(asked)
        number = len(self.seen)
        text = " | ".join(_texts(asked["input"]))
        message: dict[str, Any] = {
            "id": f"msg_{number}", "type": "message", "role": "assistant", "status": "completed",
            "content": [{"type": "output_text", "text": text, "annotations": [], "logprobs": None}],
        }  # fmt: skip
        answer: dict[str, Any] = {
            "id": f"resp_{number}", "object": "response", "created_at": 1, "model": MODEL, "status": "completed",
            "output": [message], "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
            "previous_response_id": None, "temperature": 1.0, "top_p": 1.0,
        }  # fmt: skip
        if not asked.get("stream"):
            body = json.dumps(answer).encode()
            length = (b"content-length", str(len(body)).encode())
            head = [(b"content-type", b"application/json"), length]
            await send({"type": "http.response.start", "status": 200, "headers": head})
            await send({"type": "http.response.body", "body": body})
            return
        head = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        begun = answer | {"status": "in_progress", "output": []}
        (part,) = message["content"]
        place = {"item_id": f"msg_{number}", "output_index": 0, "content_index": 0}
        events: list[dict[str, Any]] = [
            {"type": "response.created", "response": begun},
            {"type": "response.output_item.added", "output_index": 0, "item": message | {"content": []}},
            {"type": "response.content_part.added", **place, "part": part | {"text": ""}},
            {"type": "response.output_text.delta", **place, "delta": text, "logprobs": []},
            {"type": "response.completed", "response": answer},
        ]
        stream = b"".join(
            f"event: {each['type']}\ndata: {json.dumps(each | {'sequence_number': n})}\n\n".encode()
            for n, each in enumerate(events)
        )
        for start in range(0, len(stream), 37):  # events come in whatever pieces
            more = start + 37 < len(stream)
            await send({"type": "http.response.body", "body": stream[start : start + 37], "more_body": more})


def _roles(items: Sequence[BaseModel]) -> list[str]:
    return [item.model_dump()["role"] for item in items]


def _texts(given: Any) -> list[str]:
    if isinstance(given, str):
        return [given]
    contents = [item["content"] for item in given]
    return [content if isinstance(content, str) else content[0]["text"] for content in contents]


Asking = Callable[[FullStack, openai.AsyncOpenAI], Awaitable[None]]


def converse(base: Path, story: Asking, **changes: Any) -> None:
    async def with_sdk(there: FullStack) -> None:
        async with sdk(there) as client:
            await story(there, client)

    run_story(base, with_sdk, make_engine=Telling, **changes)


@pytest.fixture(scope="module")
def shared_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LongLived[FullStack]]:
    """One with the settings that there are; each visit has ids of its own."""
    with long_lived(full_stack(tmp_path_factory.mktemp("full_stack"), make_engine=Telling)) as opened:
        yield opened


def visit(opened: LongLived[FullStack], story: Asking) -> None:
    async def with_sdk() -> None:
        async with sdk(opened.here) as client:
            await story(opened.here, client)

    opened.run(with_sdk())


@asynccontextmanager
async def sdk(there: FullStack, key: str = "none") -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{there.url}/v1", api_key=key, max_retries=0) as client:
        yield client


def test_a_response_is_gone_on_from_shown_and_deleted(shared_stack: LongLived[FullStack]) -> None:
    async def story(there: FullStack, client: openai.AsyncOpenAI) -> None:
        first = await client.responses.create(model=MODEL, input="one", instructions="be brief")
        assert (first.output_text, first.model_dump()["store"]) == ("one", True)
        second = await client.responses.create(model=MODEL, input="two", previous_response_id=first.id)
        assert second.output_text == "one | one | two"
        assert second.previous_response_id == first.id
        third = await client.responses.create(
            model=MODEL, input=[{"role": "user", "content": "three"}], previous_response_id=second.id
        )
        assert third.output_text == "one | one | two | one | one | two | three"
        shown = await client.responses.retrieve(third.id)
        assert shown.model_dump() == third.model_dump()
        items = (await client.responses.input_items.list(third.id, order="asc")).data
        assert _roles(items) == ["user", "assistant", "user", "assistant", "user"]
        page = await client.responses.input_items.list(third.id, limit=2)
        assert [item.id for item in page.data] == [items[4].id, items[3].id]
        assert [item.id async for item in page] == [item.id for item in reversed(items)]
        engine = there.engine
        assert isinstance(engine, Telling)
        assert not {"previous_response_id", "conversation", "instructions"} & engine.seen[-1].keys()
        await client.responses.delete(second.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(second.id)
        with pytest.raises(openai.BadRequestError, match=second.id) as caught:
            await client.responses.create(model=MODEL, input="four", previous_response_id=third.id)
        assert (caught.value.code, caught.value.param) == ("previous_response_not_found", "previous_response_id")
        with pytest.raises(openai.BadRequestError, match="synchronous"):
            await client.responses.cancel(third.id)

    visit(shared_stack, story)


def test_a_stream_is_kept_as_it_says(shared_stack: LongLived[FullStack]) -> None:
    async def story(_: FullStack, client: openai.AsyncOpenAI) -> None:
        first = await client.responses.create(model=MODEL, input="eins, zwölf")
        stream = await client.responses.create(model=MODEL, input="zwei", previous_response_id=first.id, stream=True)
        events = [event async for event in stream]
        assert [event.sequence_number for event in events] == [0, 1, 2, 3, 4]
        begun, over = events[0], events[-1]
        assert begun.type == "response.created"
        assert begun.response.previous_response_id == first.id
        assert over.type == "response.completed"
        last = over.response
        assert last.output_text == "eins, zwölf | eins, zwölf | zwei"
        assert (await client.responses.retrieve(last.id)).model_dump() == last.model_dump()

    visit(shared_stack, story)


def test_what_is_not_to_be_stored_is_not(tmp_path: Path) -> None:
    async def story(there: FullStack, client: openai.AsyncOpenAI) -> None:
        by_default = await client.responses.create(model=MODEL, input="x")
        wanted = await client.responses.create(model=MODEL, input="y", store=True)
        refused = await client.responses.create(model=MODEL, input="z", store=False, previous_response_id=wanted.id)
        assert (refused.output_text, refused.model_dump()["store"]) == ("y | y | z", False)
        await client.responses.retrieve(wanted.id)
        for gone in (by_default, refused):
            with pytest.raises(openai.NotFoundError):
                await client.responses.retrieve(gone.id)
        with pytest.raises(openai.BadRequestError, match="background"):
            await client.responses.create(model=MODEL, input="x", background=True)
        both: dict[str, Any] = {"previous_response_id": wanted.id, "conversation": "conv_x"}
        with pytest.raises(openai.BadRequestError, match="not from both"):
            await client.responses.create(model=MODEL, input="x", **both)
        for field, value in (("previous_response_id", 7), ("conversation", {"id": None}), ("conversation", [])):
            answer = await there.http.post("/v1/responses", json={"model": MODEL, "input": "x", field: value})
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)

    converse(tmp_path, story, stored_responses=StoredResponsesSettings(store=False))


def test_a_conversation_grows_with_its_responses(shared_stack: LongLived[FullStack]) -> None:
    async def story(_: FullStack, client: openai.AsyncOpenAI) -> None:
        talk = await client.conversations.create(
            items=[{"type": "message", "role": "user", "content": "hello"}], metadata={"topic": "sums"}
        )
        answer = await client.responses.create(model=MODEL, input="one", conversation=talk.id)
        assert answer.output_text == "hello | one"
        assert answer.conversation is not None
        assert answer.conversation.id == talk.id
        unkept = await client.responses.create(model=MODEL, input="two", conversation={"id": talk.id}, store=False)
        assert unkept.output_text == "hello | one | hello | one | two"
        beside = await client.responses.create(model=MODEL, input="aside", previous_response_id=answer.id)
        assert beside.output_text == "hello | one | hello | one | aside", "as the conversation was then"
        items = (await client.conversations.items.list(talk.id, order="asc")).data
        assert _roles(items) == ["user", "user", "assistant", "user", "assistant"]
        added = await client.conversations.items.create(
            talk.id, items=[{"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "!"}]}]
        )
        new_id = added.data[0].id
        assert new_id is not None
        assert (await client.conversations.items.retrieve(new_id, conversation_id=talk.id)).id == new_id
        seen = [item.id async for item in await client.conversations.items.list(talk.id, limit=2)]
        assert seen == [new_id, *(item.id for item in reversed(items))]
        await client.conversations.items.delete(new_id, conversation_id=talk.id)
        with pytest.raises(openai.NotFoundError):
            await client.conversations.items.retrieve(new_id, conversation_id=talk.id)
        changed = await client.conversations.update(talk.id, metadata={"topic": "products"})
        assert (changed.id, changed.metadata) == (talk.id, {"topic": "products"})
        assert (await client.conversations.retrieve(talk.id)).metadata == {"topic": "products"}
        assert (await client.conversations.delete(talk.id)).deleted
        with pytest.raises(openai.NotFoundError):
            await client.conversations.items.list(talk.id)
        with pytest.raises(openai.NotFoundError) as caught:
            await client.responses.create(model=MODEL, input="three", conversation=talk.id)
        assert (caught.value.code, caught.value.param) == ("conversation_not_found", "conversation")

    visit(shared_stack, story)


ODD: tuple[tuple[dict[str, Any], str], ...] = (
    ({"items": [{"role": "user"}]}, "items.0.content"),
    ({"items": [{"role": "robot", "content": "x"}]}, "items.0.role"),
    ({"items": [{"type": 7}]}, "items.0.type"),
    ({"items": [{"role": "user", "content": "x"}] * 21}, "items"),
    ({"metadata": {"a": 1}}, "metadata"),
    ({"metadata": {"x" * 65: "y"}}, "metadata"),
    ({"topic": "x"}, "topic"),
)


def test_an_odd_conversation_is_refused_by_its_field(shared_stack: LongLived[FullStack]) -> None:
    async def story(there: FullStack, _: openai.AsyncOpenAI) -> None:
        plain = {"items": [{"role": "user", "content": "x", "type": None}], "metadata": None}
        assert (await there.http.post("/v1/conversations", json=plain)).status_code == 200
        for body, field in ODD:
            answer = await there.http.post("/v1/conversations", json=body)
            assert answer.status_code == 400, answer.text
            assert field in answer.json()["error"]["message"]

    visit(shared_stack, story)


def test_what_is_kept_is_what_the_filters_let_through(tmp_path: Path) -> None:
    async def story(_: FullStack, client: openai.AsyncOpenAI) -> None:
        answer = await client.responses.create(model=MODEL, input="the secret word")
        assert answer.output_text == "the #"
        assert (await client.responses.retrieve(answer.id)).output_text == "the #"
        again = await client.responses.create(model=MODEL, input="secret word!", previous_response_id=answer.id)
        assert again.output_text == "the # | the # | #!"

    filters = [FilterSetting(use="patterns", options={"patterns": ["secret word"], "replacement": "#"})]
    converse(tmp_path, story, filters=filters)


def test_no_other_key_sees_a_response_or_a_conversation(tmp_path: Path) -> None:
    async def story(there: FullStack, anonymous: openai.AsyncOpenAI) -> None:
        mine, others, admin = await there.key(), await there.key(), await there.key(scopes=["admin"])
        async with sdk(there, mine) as client:
            talk = await client.conversations.create(items=[{"role": "user", "content": "secret"}])
            answer = await client.responses.create(model=MODEL, input="secret", conversation=talk.id)
            item_id = (await client.conversations.items.list(talk.id)).data[0].id
        assert item_id is not None
        with pytest.raises(openai.AuthenticationError):
            await anonymous.responses.retrieve(answer.id)
        for key in (others, admin):
            async with sdk(there, key) as client:
                for asking in (
                    client.responses.retrieve(answer.id),
                    client.responses.delete(answer.id),
                    client.responses.cancel(answer.id),
                    client.responses.input_items.list(answer.id),
                    client.conversations.retrieve(talk.id),
                    client.conversations.update(talk.id, metadata={}),
                    client.conversations.delete(talk.id),
                    client.conversations.items.list(talk.id),
                    client.conversations.items.create(talk.id, items=[]),
                    client.conversations.items.retrieve(item_id, conversation_id=talk.id),
                    client.conversations.items.delete(item_id, conversation_id=talk.id),
                    client.responses.create(model=MODEL, input="x", conversation=talk.id),
                ):
                    with pytest.raises(openai.NotFoundError) as caught:
                        await asking
                    assert "secret" not in str(caught.value)
                with pytest.raises(openai.BadRequestError, match="not found"):
                    await client.responses.create(model=MODEL, input="x", previous_response_id=answer.id)
        async with sdk(there, mine) as client:
            assert (await client.responses.retrieve(answer.id)).id == answer.id

    converse(tmp_path, story)


async def test_an_answer_waits_for_no_database(tmp_path: Path) -> None:
    async with full_stack(tmp_path, make_engine=Telling, with_control=False) as there, sdk(there) as client:
        async with running_control(there.settings):
            await _serve_a_model(there)
        answer = await client.responses.create(model=MODEL, input="one")
        assert answer.model_dump()["store"] is True  # it will be, as soon as there is somebody to keep it
        for asking in (
            client.responses.create(model=MODEL, input="two", previous_response_id="resp_7"),
            client.responses.retrieve("resp_7"),
        ):
            with pytest.raises(openai.APIStatusError) as caught:
                await asking
            assert (caught.value.status_code, caught.value.code) == (503, "control_down")
        async with running_control(there.settings):

            async def kept() -> Any:
                return await there.http.get(f"/v1/responses/{answer.id}")

            shown = await eventually(kept, lambda response: response.status_code == 200)
            assert shown.json()["output"][0]["content"][0]["text"] == "one"


async def _serve_a_model(there: FullStack) -> None:
    write_checkpoint(there.settings.layout.models / MODEL)
    for path, body in (("/models/register", {"id": MODEL, "source": "t"}), ("/models/set_active", {"id": MODEL})):
        answer = await there.owner.post(path, json=body)
        assert answer.status_code == 200, answer.text


class Clock:
    def __init__(self) -> None:
        self.now = utc_now()

    def __call__(self) -> Any:
        return self.now


@asynccontextmanager
async def shelf(base: Path, **settings: Any) -> AsyncIterator[tuple[ResponseStore, Conversations, Room, Clock]]:
    """What keeps responses, on a database of its own."""
    clock = Clock()
    layout = settings_of(base).layout
    layout.create()
    database = Database(url_of(settings_of(base)))
    await database.migrate()
    room = Room(database, StoredResponsesSettings(**settings), clock)
    talks = Conversations(database, room, clock)
    try:
        yield ResponseStore(database, talks, room, clock), talks, room, clock
    finally:
        await database.close()


def response(name: str, text: str = "", **fields: Any) -> KeptResponse:
    given = {"type": "message", "role": "user", "content": text or name}
    return KeptResponse(owner="k", response={"id": name, "output": []}, input=[given], **fields)


async def _there(store: ResponseStore, *names: str, owner: str = "k") -> list[str]:
    found = []
    for name in names:
        with suppress(NotFound):
            found.append((await store.get(owner, name))["id"])
    return found


async def test_what_was_not_used_for_long_goes(tmp_path: Path) -> None:
    async with shelf(tmp_path, max_age_days=10) as (store, talks, room, clock):
        talk = await talks.create("k", {}, [{"role": "user", "content": "x"}])
        used = await talks.create("k", {}, [])
        await store.keep([response("a"), response("b", previous_id="a"), response("alone")])
        clock.now += timedelta(days=8)
        await store.context(ContextRequest(owner="k", previous_id="b", max_bytes=10_000))
        await store.context(ContextRequest(owner="k", conversation_id=used.id, max_bytes=10_000))
        clock.now += timedelta(days=8)
        await room.drop_old()
        assert await _there(store, "a", "b", "alone") == ["a", "b"], "all of what is gone on from has been used"
        assert (await talks.get("k", used.id)).id == used.id
        with pytest.raises(NotFound):
            await talks.get("k", talk.id)


async def test_a_key_has_only_so_much_room_and_takes_none_from_others(tmp_path: Path) -> None:
    async with shelf(tmp_path, max_bytes_per_key=10_000) as (store, talks, _, clock):
        await store.keep([response("first").model_copy(update={"owner": "other"})])
        for number in range(10):
            clock.now += timedelta(seconds=1)
            await store.keep([response(f"r{number}", "x" * 1400)])
        left = await _there(store, *(f"r{number}" for number in range(10)))
        assert left == ["r6", "r7", "r8", "r9"]
        assert await _there(store, "first", owner="other") == ["first"]
        clock.now += timedelta(seconds=1)
        talk = await talks.create("k", {}, [{"role": "user", "content": "y" * 6000}])
        assert await _there(store, *left) == ["r9"]
        clock.now += timedelta(seconds=1)
        await store.keep([response("large", "x" * 8000)])
        assert await _there(store, "r9", "large") == ["large"]
        with pytest.raises(NotFound):
            await talks.get("k", talk.id)


async def test_what_is_longer_than_a_request_is_not_gone_on_from(tmp_path: Path) -> None:
    async with shelf(tmp_path) as (store, talks, _, _):
        await store.keep([response("a", "x" * 3000), response("b", "y" * 3000, previous_id="a")])
        with pytest.raises(Invalid, match=r"^previous_response_id: .* 5000"):
            await store.context(ContextRequest(owner="k", previous_id="b", max_bytes=5000))
        talk = await talks.create("k", {}, [{"role": "user", "content": "y" * 6000}])
        with pytest.raises(Invalid, match=r"^conversation: .* 5000"):
            await store.context(ContextRequest(owner="k", conversation_id=talk.id, max_bytes=5000))


async def test_the_same_answer_brought_twice_is_kept_once(tmp_path: Path) -> None:
    async with shelf(tmp_path) as (store, talks, _, _):
        talk = await talks.create("k", {}, [])
        said = {"id": "msg_1", "type": "message", "role": "assistant", "content": []}
        once = response("a", conversation_id=talk.id, upto=0)
        once = once.model_copy(update={"response": {"id": "a", "output": [said]}})
        await store.keep([once])
        await store.keep([once])
        page = await talks.page("k", talk.id, newest_first=False, after=None, limit=10)
        assert [item.get("role") for item in page.items] == ["user", "assistant"]


async def test_a_chain_that_is_too_long_or_a_circle_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "MOST_TURNS", 3)
    async with shelf(tmp_path) as (store, _, _, _):
        names = "abcd"
        await store.keep([response(one, previous_id=last) for last, one in zip((None, *names), names, strict=False)])
        before = await store.context(ContextRequest(owner="k", previous_id="c", max_bytes=1 << 20))
        assert _texts(before.items) == ["a", "b", "c"]
        with pytest.raises(Invalid, match=r"^previous_response_id: .* more than 3 responses"):
            await store.context(ContextRequest(owner="k", previous_id="d", max_bytes=1 << 20))
        await store.keep([response("a", previous_id="b")])
        round_about = await store.context(ContextRequest(owner="k", previous_id="b", max_bytes=1 << 20))
        assert _texts(round_about.items) == ["a", "b"]


async def test_a_chain_keeps_the_conversation_that_it_began_in_and_is_lost_with_it(tmp_path: Path) -> None:
    async with shelf(tmp_path, max_age_days=30) as (store, talks, room, clock):
        talk = await talks.create("k", {}, [{"role": "user", "content": "one " * 500}])
        shown = await store.context(ContextRequest(owner="k", conversation_id=talk.id, max_bytes=1 << 20))
        await store.keep([response("a", conversation_id=talk.id, upto=shown.upto), response("b", previous_id="a")])
        with pytest.raises(Invalid, match=r"^previous_response_id: .* 2500"):
            await store.context(ContextRequest(owner="k", previous_id="b", max_bytes=2500))
        for _ in range(2):
            clock.now += timedelta(days=20)
            before = await store.context(ContextRequest(owner="k", previous_id="b", max_bytes=1 << 20))
            assert _texts(before.items) == ["one " * 500, "a", "b"]
            await room.drop_old()
        await talks.remove("k", talk.id)
        with pytest.raises(NotFound, match=talk.id):
            await store.context(ContextRequest(owner="k", previous_id="b", max_bytes=1 << 20))


async def test_a_new_item_never_stands_where_a_deleted_one_stood(tmp_path: Path) -> None:
    async with shelf(tmp_path) as (store, talks, _, _):
        talk = await talks.create("k", {}, [{"role": "user", "content": text} for text in ("one", "two")])
        shown = await store.context(ContextRequest(owner="k", conversation_id=talk.id, max_bytes=1 << 20))
        page = await talks.page("k", talk.id, newest_first=True, after=None, limit=1)
        await talks.remove_item("k", talk.id, page.items[0]["id"])
        await store.keep([response("a", "three", conversation_id=talk.id, upto=shown.upto)])
        before = await store.context(ContextRequest(owner="k", previous_id="a", max_bytes=1 << 20))
        assert _texts(before.items) == ["one", "three"]
