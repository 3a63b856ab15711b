"""Traffic that is kept, feedback on it, and what becomes of both: over real sockets, with control and its database."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from control.access.key_book import KeyBook
from control.access.new_key import NewKey
from control.access.principal import Principal
from control.database.database import Database, url_of
from control.errors import Conflict, NotFound
from control.routes import datasets, traffic
from control.traffic.consents import Consents
from control.traffic.store import TrafficStore, Wanted
from datagen.feedback import FeedbackRows
from evals.dataset_store import FileDatasetStore
from gateway.http.asgi import Receive, Scope, Send, read_body
from stepserve.access import ANONYMOUS, KeySet
from stepserve.traffic import FeedbackOrder, KeptExchange, TrafficSettings, Turn
from tests.integration.control_plane import settings_of
from tests.integration.full_stack import MODEL, FullStack, bearer, full_stack, run_story, running_control
from tests.integration.long_lived import LongLived, long_lived
from tests.unit.control.checkpoint_files import write_checkpoint
from tests.unit.gateway.fakes import FakeEngine

ON = TrafficSettings(on=True)
SECRET = "jane.doe@example.org"
MARK = "marked-for-the-search"


class Chatting(FakeEngine):
    """Answers chats with the last turn, whole or in pieces; what is asked `again` is answered in other words."""

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = json.loads(await read_body(receive, 1 << 20))
        words = "another answer to" if asked.get("user") == "again" else "answer to"
        text = f"{words} {asked['messages'][-1]['content']}"
        if not asked.get("stream"):
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
            body = json.dumps({"choices": [choice], "usage": usage}).encode()
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})
            return
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for piece in (text[:9], text[9:]):
            event = json.dumps({"choices": [{"index": 0, "delta": {"content": piece}}]}).encode()
            await send({"type": "http.response.body", "body": b"data: " + event + b"\n\n", "more_body": True})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


def routes() -> list[Any]:
    store = FileDatasetStore()
    return [datasets.router_of(store), traffic.datasets_router(store, FeedbackRows())]


@pytest.fixture(scope="module")
def shared_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LongLived[FullStack]]:
    """One that keeps traffic; each visit has keys of its own."""
    base = tmp_path_factory.mktemp("full_stack")
    with long_lived(full_stack(base, make_engine=Chatting, more_routes=routes(), traffic=ON)) as opened:
        yield opened


def live(base: Path, story: Any, settings: TrafficSettings = ON, **changes: Any) -> None:
    run_story(base, story, make_engine=Chatting, more_routes=routes(), traffic=settings, **changes)


async def ask(there: FullStack, key: str | None, text: str = "2+2?", **fields: Any) -> str:
    """Asks, and gives the request's id."""
    answer = await there.chat(key, messages=[{"role": "user", "content": text}], **fields)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-request-id"]


async def rate(there: FullStack, key: str | None, request_id: str, rating: int = -1, **fields: Any) -> httpx.Response:
    headers = bearer(key) if key else {}
    body = {"request_id": request_id, "rating": rating, **fields}
    return await there.http.post("/feedback", json=body, headers=headers)


async def kept(there: FullStack, key: str | None, query: str = "") -> list[dict[str, Any]]:
    answer = await there.http.get(f"/traffic/requests{query}", headers=bearer(key) if key else {})
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["requests"]
    return found


def on_disk(base: Path, text: str) -> list[Path]:
    return [path for path in base.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    ("settings", "consents"),
    [(TrafficSettings(), True), (ON, False), (ON, None), (TrafficSettings(without_keys=True), None)],
)
def test_nothing_is_written_without_both_consents(
    tmp_path: Path, settings: TrafficSettings, consents: bool | None
) -> None:
    async def story(there: FullStack) -> None:
        key = None if consents is None else await there.key(scopes=["infer"], keep_traffic=consents)
        request_id = await ask(there, key, MARK)
        assert await kept(there, key) == []
        answer = await rate(there, key, request_id, correction=MARK)
        assert answer.status_code == 404
        way = "traffic.on" if not settings.on else "PUT /traffic/consent" if key else "traffic.without_keys"
        assert request_id in answer.json()["detail"]
        assert way in answer.json()["detail"]

    live(tmp_path, story, settings)
    assert on_disk(tmp_path, MARK) == []


def test_a_key_consents_is_kept_and_withdraws(shared_stack: LongLived[FullStack]) -> None:
    async def story(there: FullStack) -> None:
        key = await there.key(scopes=["infer"])
        mine = bearer(key)
        before = (await there.http.get("/traffic/consent", headers=mine)).json()
        assert (before["keep"], before["history"], before["server"]["on"]) == (False, [], True)
        await ask(there, key)
        given = await there.http.put("/traffic/consent", headers=mine, json={"keep": True})
        assert given.status_code == 200, given.text
        whole, streamed = await ask(there, key, "one"), await ask(there, key, "two", stream=True)
        shown = {each["request_id"]: each for each in await kept(there, key)}
        assert {name: each["answer"] for name, each in shown.items()} == {
            whole: "answer to one", streamed: "answer to two",
        }  # fmt: skip
        assert shown[whole]["prompt"] == [{"role": "user", "content": "one"}]
        assert (shown[whole]["model"], shown[whole]["key_id"]) == (MODEL, key[3:13])
        assert shown[whole]["model_digest"].startswith("sha256:")
        chat = {"model_id": MODEL, "messages": [{"role": "user", "content": "three"}]}
        translated = await there.http.post("/chat", headers=mine, json=chat)
        assert translated.status_code == 200, translated.text
        (last, *_) = await kept(there, key)
        assert (last["request_id"], last["answer"]) == (translated.headers["x-request-id"], "answer to three")
        await there.http.put("/traffic/consent", headers=mine, json={"keep": False})
        await ask(there, key)
        after = (await there.http.get("/traffic/consent", headers=mine)).json()
        assert [(each["keep"], each["by"]) for each in after["history"]] == [(False, key[3:13]), (True, key[3:13])]
        assert (after["keep"], after["kept"]["requests"]) == (False, 3)

    shared_stack.run(story(shared_stack.here))


def test_without_keys_the_settings_consent_and_that_is_noted(tmp_path: Path) -> None:
    settings = TrafficSettings(on=True, without_keys=True)

    async def story(there: FullStack) -> None:
        request_id = await ask(there, None)
        assert (await rate(there, None, request_id, 1)).status_code == 200
        shown = (await there.http.get("/traffic/consent")).json()
        assert [(each["keep"], each["by"]) for each in shown["history"]] == [(True, "settings")]
        refused = await there.http.put("/traffic/consent", json={"keep": False})
        assert (refused.status_code, "traffic.without_keys" in refused.text) == (422, True)

    live(tmp_path, story, settings)


def test_what_is_personal_is_redacted_before_it_is_written(shared_stack: LongLived[FullStack]) -> None:
    async def story(there: FullStack) -> None:
        key = await there.key(scopes=["infer"], keep_traffic=True)
        request_id = await ask(there, key, f"mail {SECRET}")
        answer = await rate(there, key, request_id, correction=f"not to {SECRET}")
        assert answer.json()["correction"] == "not to [redacted]"
        (shown,) = await kept(there, key)
        assert shown["prompt"][0]["content"] == "mail [redacted]"
        assert shown["answer"].endswith("mail [redacted]")
        assert on_disk(there.settings.layout.base, SECRET) == []

    shared_stack.run(story(shared_stack.here))


def test_feedback_takes_the_place_of_earlier_feedback(shared_stack: LongLived[FullStack]) -> None:
    async def story(there: FullStack) -> None:
        key = await there.key(scopes=["infer"], keep_traffic=True)
        request_id = await ask(there, key)
        await rate(there, key, request_id, -1, correction="4")
        answer = await rate(there, key, request_id, 1)
        assert answer.status_code == 200, answer.text
        (shown,) = await kept(there, key, "?rated=true")
        assert (shown["feedback"]["rating"], shown["feedback"]["correction"]) == (1, None)
        assert shown["feedback"]["rated_by"] == key[3:13]
        wrongs: tuple[dict[str, Any], ...] = (
            {"rating": 0}, {"rating": 5}, {"correction": " "}, {"correction": "x" * 300_000}, {"other": 1},
        )  # fmt: skip
        for wrong in wrongs:
            refused = await rate(there, key, request_id, **{"rating": 1, **wrong})
            assert refused.status_code == 422, wrong
            assert next(iter(wrong)) in refused.json()["detail"]

    shared_stack.run(story(shared_stack.here))


def test_another_keys_traffic_is_not_to_be_seen_rated_or_deleted(shared_stack: LongLived[FullStack]) -> None:
    async def story(there: FullStack) -> None:
        admin = await there.key(name="boss", scopes=["admin"])
        key, other = [await there.key(scopes=["infer", "jobs"], keep_traffic=True) for _ in range(2)]
        owner = key[3:13]
        request_id = await ask(there, key)
        theirs = bearer(other)
        assert await kept(there, other) == []
        assert (await rate(there, other, request_id)).status_code == 404
        assert (await rate(there, other, request_id, key_id=owner)).status_code == 403
        for method, path in (("GET", ""), ("GET", f"/{request_id}"), ("DELETE", ""), ("DELETE", f"/{request_id}")):
            named = await there.http.request(method, f"/traffic/requests{path}?key_id={owner}", headers=theirs)
            assert named.status_code == 403, named.text
        refused = await there.http.put("/traffic/consent", headers=theirs, json={"keep": False, "key_id": owner})
        assert refused.status_code == 403
        wanted = {"name": "x.jsonl", "kind": "kto"}
        assert (await there.http.post("/traffic/datasets", headers=theirs, json=wanted)).status_code == 422
        assert (await there.http.get(f"/traffic/requests/{request_id}", headers=theirs)).status_code == 404

        assert (await rate(there, admin, request_id)).json()["key_id"] == owner
        assert [each["feedback"]["rated_by"] for each in await kept(there, admin, f"?key_id={owner}")] == [admin[3:13]]

    shared_stack.run(story(shared_stack.here))


def test_of_two_keys_requests_of_one_name_an_administrator_says_which(shared_stack: LongLived[FullStack]) -> None:
    async def story(there: FullStack) -> None:
        admin = await there.key(name="boss", scopes=["admin"])
        keys = [await there.key(scopes=["infer"], keep_traffic=True) for _ in range(2)]
        for key in keys:
            headers = bearer(key) | {"x-request-id": "mine/1"}
            body = {"model": MODEL, "messages": [{"role": "user", "content": key[3:13]}]}
            assert (await there.http.post("/v1/chat/completions", json=body, headers=headers)).status_code == 200
        either = await rate(there, admin, "mine/1")
        assert (either.status_code, keys[0][3:13] in either.text) == (409, True)
        named = await rate(there, admin, "mine/1", key_id=keys[1][3:13])
        assert named.json()["key_id"] == keys[1][3:13]
        own = await there.http.get("/traffic/requests/mine/1", headers=bearer(keys[0]))
        assert own.json()["prompt"][0]["content"] == keys[0][3:13]

    shared_stack.run(story(shared_stack.here))


def test_a_key_deletes_what_is_kept_of_it_and_nobody_elses(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        key, other = [await there.key(scopes=["infer"], keep_traffic=True) for _ in range(2)]
        first = await ask(there, key, MARK)
        await ask(there, key, MARK)
        last = await ask(there, key, MARK)  # still on its way to control
        await ask(there, other, "stays")
        one = await there.http.delete(f"/traffic/requests/{first}", headers=bearer(key))
        assert one.json() == {"key_id": key[3:13], "deleted": 1}
        gone = await there.http.delete("/traffic/requests", headers=bearer(key))
        assert gone.json() == {"key_id": key[3:13], "deleted": 2}
        assert (await rate(there, key, last)).status_code == 404
        assert await kept(there, key) == []
        assert len(await kept(there, other)) == 1

    live(tmp_path, story)
    # The log goes into the database as the last connection closes, which one that was cut off does not do.
    with closing(sqlite3.connect(settings_of(tmp_path).layout.database)) as connection:
        assert connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
    assert on_disk(tmp_path, MARK) == []


def test_datasets_of_what_was_said(shared_stack: LongLived[FullStack]) -> None:
    async def story(there: FullStack) -> None:
        key = await there.key(scopes=["infer", "jobs"], keep_traffic=True)
        corrected, good = [await ask(there, key, text) for text in ("1+1?", "2+2?")]
        bad = await ask(there, key, "2+2?", user="again")
        await rate(there, key, corrected, -1, correction="two")
        await rate(there, key, good, 1)
        await rate(there, key, bad, -1)

        async def made(kind: str, status: int = 201, **fields: Any) -> Any:
            body = {"name": f"{kind}.jsonl", "kind": kind, **fields}
            answer = await there.http.post("/traffic/datasets", headers=bearer(key), json=body)
            assert answer.status_code == status, answer.text
            return answer.json()

        def rows(kind: str) -> list[dict[str, Any]]:
            text = (there.settings.layout.datasets / f"{kind}.jsonl").read_text()
            return [json.loads(line) for line in text.splitlines()]

        facts = await made("eval")
        assert (facts["format"], facts["samples"], facts["error"], facts["existing"]) == ("messages", 1, None, False)
        assert rows("eval")[0]["messages"] == [{"role": "user", "content": "1+1?"}]
        assert rows("eval")[0]["answer"] == "two"
        await made("dpo")
        assert {(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in rows("dpo")} == {
            ("two", "answer to 1+1?"), ("answer to 2+2?", "another answer to 2+2?"),
        }  # fmt: skip
        await made("kto")
        assert sorted(row["label"] for row in rows("kto")) == [False, False, True, True]
        assert (await made("kto", 200))["existing"] is True
        assert "no answer has a correction" in (await made("eval", 422, prompts="text"))["detail"]
        await rate(there, key, corrected, -1, correction="2")
        assert "?replace" in (await made("eval", 409))["detail"]
        await made("eval", replace=True)
        assert rows("eval")[0]["answer"] == "2"

    shared_stack.run(story(shared_stack.here))


async def _serve_a_model(there: FullStack) -> None:
    write_checkpoint(there.settings.layout.models / MODEL)
    for path, body in (("/models/register", {"id": MODEL, "source": "t"}), ("/models/set_active", {"id": MODEL})):
        answer = await there.owner.post(path, json=body)
        assert answer.status_code == 200, answer.text


def test_what_is_answered_while_control_is_away_is_kept_once_when_it_is_back(tmp_path: Path) -> None:
    async def story() -> None:
        async with full_stack(tmp_path, make_engine=Chatting, with_control=False, traffic=ON) as there:
            async with running_control(there.settings):
                await _serve_a_model(there)
                key = await there.key(scopes=["infer"], keep_traffic=True)
                first = await ask(there, key, "before")
                assert (await rate(there, key, first, -1, correction="good")).status_code == 200
            away = [await ask(there, key, "meanwhile", stream=stream) for stream in (False, True)]
            async with running_control(there.settings):
                shown = await kept(there, key)
                assert [each["request_id"] for each in shown] == [*reversed(away), first]
                assert shown[-1]["feedback"]["correction"] == "good"

    asyncio.run(story())


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 1, 31, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


async def _nobody(keys: KeySet, *, recovered: bool = False) -> None:
    """There is no gateway to tell."""


Shelf = tuple[TrafficStore, KeyBook, str]


@asynccontextmanager
async def shelf(base: Path, clock: Clock, **settings: Any) -> AsyncIterator[Shelf]:
    """What keeps traffic, on a database of its own, with a key that consents."""
    layout = settings_of(base).layout
    layout.create()
    database = Database(url_of(settings_of(base)))
    await database.migrate()
    traffic_settings = TrafficSettings(on=True, **settings)
    consents = Consents(database, traffic_settings, clock)
    book = KeyBook(database, _nobody, admin_elsewhere=True, clock=clock)
    try:
        row, _ = await book.create(NewKey(name="k", keep_traffic=True), "boss")
        yield TrafficStore(database, consents, traffic_settings, clock), book, row.id
    finally:
        await database.close()


def exchange(owner: str, name: str, at: datetime, answer: str = "a") -> KeptExchange:
    return KeptExchange(
        owner=owner, request_id=name, answered_at=at, path="/v1/chat/completions", model="m", digest="sha256:d",
        prompt=[Turn(role="user", content=name)], answer=answer, finish_reason="stop",
    )  # fmt: skip


async def _names(store: TrafficStore) -> list[str]:
    return [row.request_id for row in await store.page(Wanted(), 1000, None)]


@pytest.mark.usefixtures("each_database")
async def test_what_is_brought_twice_is_kept_once_with_its_feedback(tmp_path: Path) -> None:
    clock = Clock()
    async with shelf(tmp_path, clock) as (store, _, owner):
        batch = [exchange(owner, "a", clock.now), exchange(owner, "b", clock.now)]
        await store.keep(batch)
        await store.rate(FeedbackOrder(request_id="a", rating=-1, correction="\x00 b"), Principal(owner, None))
        await store.keep([*batch, exchange("stranger", "c", clock.now), exchange(ANONYMOUS, "d", clock.now)])
        assert sorted(await _names(store)) == ["a", "b"], "strangers never consented"
        row = await store.get(owner, "a", owner)
        assert (row.rating, row.correction) == (-1, "\x00 b")
        later = exchange(owner, "a", clock.now + timedelta(seconds=1), "other")
        await store.keep([later, exchange(owner, "a", clock.now)])
        row = await store.get(owner, "a", owner)
        assert (row.content["answer"], row.rating) == ("other", None), "nothing was said of this answer"


async def test_a_consent_that_was_withdrawn_holds_for_what_is_still_on_its_way(tmp_path: Path) -> None:
    clock = Clock()
    async with shelf(tmp_path, clock) as (store, book, owner):
        await book.consent(owner, keep=False, by=owner)
        await store.keep([exchange(owner, "a", clock.now)])
        assert await _names(store) == []


async def test_old_traffic_goes_and_so_does_what_is_too_much(tmp_path: Path) -> None:
    clock = Clock()
    async with shelf(tmp_path, clock, max_age_days=10, max_bytes=10_000) as (store, _, owner):
        await store.keep([exchange(owner, "old", clock.now)])
        clock.now += timedelta(days=11)
        await store.keep([exchange(owner, "new", clock.now)])
        await store.drop_old()
        assert await _names(store) == ["new"]
        with pytest.raises(NotFound, match="older than 10 days"):
            await store.get(owner, "old", owner)
        for number in range(10):
            clock.now += timedelta(seconds=1)
            await store.keep([exchange(owner, f"r{number}", clock.now, "x" * 1800)])
        assert await _names(store) == ["r9", "r8", "r7", "r6"]
        assert (await store.count(owner))[1] <= 10_000
        order = FeedbackOrder(request_id="r9", rating=1, correction="y" * 5000)
        await store.rate(order, Principal(owner, None))
        assert (await store.count(None))[1] <= 10_000
        assert await store.remove_all(owner) == len(["r9", "r8"])


@pytest.mark.usefixtures("each_database")
async def test_answers_to_one_prompt_come_together_however_many_there_are(tmp_path: Path) -> None:
    clock = Clock()
    async with shelf(tmp_path, clock) as (store, _, owner):
        prompts = [f"p{number % 150}" for number in range(450)]
        batch = [
            exchange(owner, f"r{number}", clock.now + timedelta(seconds=number)).model_copy(update={"prompt": prompt})
            for number, prompt in enumerate(prompts)
        ]
        await store.keep(batch)
        for number in range(450):
            await store.rate(FeedbackOrder(request_id=f"r{number}", rating=1), Principal(owner, None))
        groups: list[Sequence[Any]] = [group async for group in store.rated(Wanted(owner))]
        assert sorted(len(group) for group in groups) == [3] * 150
        assert all(len({row.prompt_sha for row in group}) == 1 for group in groups)
        pages: list[int] = []
        after: str | None = None
        while page := await store.page(Wanted(owner), 200, after):
            pages.append(len(page))
            after = page[-1].request_id
        assert pages == [200, 200, 50]


async def test_a_name_of_two_keys_is_no_ones_alone(tmp_path: Path) -> None:
    clock = Clock()
    async with shelf(tmp_path, clock) as (store, book, owner):
        other, _ = await book.create(NewKey(name="k2", keep_traffic=True), "boss")
        await store.keep([exchange(owner, "a", clock.now), exchange(other.id, "a", clock.now)])
        with pytest.raises(Conflict, match="key_id"):
            await store.get(None, "a", "boss")
        assert (await store.get(None, "a", owner)).owner == owner
