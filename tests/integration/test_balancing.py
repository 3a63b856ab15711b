"""Requests to the head of a fleet: who answers them, and that a client notices nothing of members that fail."""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY
from pydantic import SecretStr

from stepserve.access_settings import AccessSettings
from stepserve.contract import ActivateRequest, ModelRef
from stepserve.fleet import LOCAL_MEMBER, Committed
from stepserve.fleet_settings import FleetSettings
from stepserve.settings import Alias
from tests.eventually import eventually
from tests.integration import misbehaving
from tests.integration.fleet import OPEN, Fleet, Node, content_of, fleet, streams
from tests.integration.full_stack import full_stack
from tests.integration.misbehaving import Headers, Upstream
from tests.unit.gateway.balancing.views import DIGEST, MODEL, member

ADMIN = "a-key-of-the-settings-that-is-long-enough"
Story = Callable[[Fleet], Awaitable[None]]


def run_story(base: Path, story: Story, *nodes: Node, **changes: Any) -> None:
    async def run() -> None:
        async with fleet(base, *nodes, **changes) as there:
            await story(there)

    asyncio.run(run())


def answered_by(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return answer.headers["x-stepserve-gateway"]


def test_all_members_answer_this_gateway_among_them(tmp_path: Path) -> None:
    may_answer = asyncio.Event()

    async def slowly(node: Node, there: Upstream, headers: Headers, body: bytes, writer: asyncio.StreamWriter) -> None:
        await may_answer.wait()
        await misbehaving.answer(writer, 200, {"choices": [{"message": {"content": node.name}}]}, *node.identity)

    async def story(there: Fleet) -> None:
        there.local = member(LOCAL_MEMBER)
        await there.seen()
        there.engine.release.clear()
        asking = [asyncio.create_task(there.ask()) for _ in range(30)]
        await eventually(lambda: sum(node.server.running for node in nodes) >= 20)
        metrics = (await there.head.http.get("/metrics")).text
        assert 'stepserve_fleet_outstanding_tokens{member="a"}' in metrics
        may_answer.set()
        there.engine.release.set()
        answers = await asyncio.gather(*asking)
        assert Counter(map(answered_by, answers)) == {LOCAL_MEMBER: 10, "a": 10, "b": 10}
        for answer in answers:
            assert answer.headers["x-model-digest"] == DIGEST
            if answered_by(answer) != LOCAL_MEMBER:
                assert content_of(answer) == answered_by(answer)
        assert not any(each.outstanding_tokens for each in there.members.all.values())
        metrics = (await there.head.http.get("/metrics")).text
        assert 'stepserve_fleet_requests_total{member="a",outcome="answered"} 10.0' in metrics

    nodes = [Node("a"), Node("b")]
    for node in nodes:
        node.behave = partial(slowly, node)
    run_story(tmp_path, story, *nodes)


def test_a_key_that_members_do_not_take_takes_no_member_out(tmp_path: Path) -> None:
    """The key of the setting access.admin_key is this gateway's alone; a new one reaches members a second later."""

    async def story(there: Fleet) -> None:
        answer = await there.ask()
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1"), answer.text
        assert "does not take the client's key" in answer.json()["error"]["message"]
        assert "127.0.0.1" not in answer.text, "members are named, not where they are"
        there.local = member(LOCAL_MEMBER)
        await there.seen()
        for _ in range(8):
            assert answered_by(await there.ask()) == LOCAL_MEMBER
        assert not any(each.breaker.failures for each in there.members.all.values())
        for node in nodes:
            node.behave = None
        assert {answered_by(await there.ask()) for _ in range(6)} == {LOCAL_MEMBER, "a", "b"}

    nodes = [Node("a", behave=misbehaving.refuses_our_key), Node("b", behave=misbehaving.refuses_our_key)]
    run_story(tmp_path, story, *nodes)


def test_the_key_of_the_settings_leaves_this_machine_for_nobody(tmp_path: Path) -> None:
    async def story(there: Fleet) -> None:
        there.local = member(LOCAL_MEMBER)
        await there.seen()
        key = {"authorization": f"Bearer {ADMIN}"}
        assert {answered_by(await there.ask(key)) for _ in range(4)} == {LOCAL_MEMBER}
        assert not there.nodes[0].server.seen

    run_story(tmp_path, story, Node("a"), access=AccessSettings(admin_key=SecretStr(ADMIN)))


@pytest.mark.parametrize(
    "behaviour", [misbehaving.dies, misbehaving.half_json, misbehaving.fails, misbehaving.busy, misbehaving.no_http]
)
def test_a_member_that_fails_before_its_first_byte(tmp_path: Path, behaviour: misbehaving.Behaviour) -> None:
    async def story(there: Fleet) -> None:
        answers = await asyncio.gather(*(there.ask() for _ in range(8)))
        assert set(map(answered_by, answers)) == {"well"}
        assert there.nodes[0].server.seen, "it was asked"

    run_story(tmp_path, story, Node("unwell", behave=behaviour), Node("well"))


def test_a_member_that_is_killed_while_it_answers_a_stream(tmp_path: Path) -> None:
    seen: list[bytes] = []

    async def read(there: Fleet) -> None:
        asked = {"model": MODEL, "messages": [], "stream": True}
        async with there.head.http.stream("POST", "/v1/chat/completions", json=asked) as answer:
            assert answer.headers["x-stepserve-gateway"] == "a"
            async for chunk in answer.aiter_raw():
                seen.append(chunk)  # noqa: PERF401 - what came before the end is wanted

    async def story(there: Fleet) -> None:
        there.members.all["b"].outstanding_tokens = 10**6
        with pytest.raises(httpx.RemoteProtocolError):
            await read(there)
        stream = b"".join(seen)
        assert b"[DONE]" not in stream
        assert "broke off" in json.loads(stream.strip().rpartition(b"data: ")[2])["error"]["message"]
        assert not there.nodes[1].server.seen, "a byte was answered, so nobody else was asked"

    first = Node("a")
    first.behave = lambda *asked: streams(*asked, *first.identity)
    run_story(tmp_path, story, first, Node("b"))


def test_the_engine_of_this_gateway_dies_before_its_first_byte(tmp_path: Path) -> None:
    async def story(there: Fleet) -> None:
        there.local = member(LOCAL_MEMBER)
        there.nodes[0].behave = misbehaving.never
        await there.seen()
        there.engine.release.clear()
        waiting = [asyncio.create_task(there.ask()) for _ in range(2)]
        await asyncio.wait_for(there.engine.entered.wait(), 240)
        there.engine.dead = True
        there.engine.status = 500
        there.nodes[0].behave = None
        there.engine.release.set()
        done, pending = await asyncio.wait(waiting, timeout=240, return_when=asyncio.FIRST_COMPLETED)
        assert [answered_by(task.result()) for task in done] == ["a"]
        for task in pending:
            task.cancel()

    run_story(tmp_path, story, Node("a"))


def test_a_member_that_serves_other_weights_than_control_says(tmp_path: Path) -> None:
    async def story(there: Fleet) -> None:
        answers = await asyncio.gather(*(there.ask() for _ in range(6)))
        assert {answer.headers["x-model-digest"] for answer in answers} == {DIGEST}
        assert set(map(answered_by, answers)) == {"b"}
        assert there.nodes[0].server.seen

    run_story(tmp_path, story, Node("a", digest="sha256:uncommitted", control_says={"digest": DIGEST}), Node("b"))


def test_a_request_is_held_until_a_member_serves_it(tmp_path: Path) -> None:
    async def story(there: Fleet) -> None:
        asking = asyncio.create_task(there.ask())
        await eventually(lambda: REGISTRY.get_sample_value("stepserve_fleet_waiting_requests"))
        assert not there.nodes[0].server.seen
        there.nodes[0].state = "ready"
        assert answered_by(await asking) == "a"

    run_story(tmp_path, story, Node("a", state="switching"))


def test_a_request_that_is_held_gets_what_is_committed_then(tmp_path: Path) -> None:
    async def story(there: Fleet) -> None:
        asking = [asyncio.create_task(there.ask(model=name)) for name in ("active", "poet", MODEL)]
        await eventually(lambda: REGISTRY.get_sample_value("stepserve_fleet_waiting_requests"), lambda seen: seen == 3)
        node = there.nodes[0]
        node.model, node.digest, node.state = "next", "sha256:next", "ready"
        there.committed = Committed(model="next", digest="sha256:next")
        by_active, by_alias, by_id = await asyncio.gather(*asking)
        assert [each.headers["x-model-id"] for each in (by_active, by_alias)] == ["next", "next"]
        assert {json.loads(body)["model"] for _, body in node.server.seen} == {"active", "next"}
        assert by_id.headers["x-model-id"] == MODEL, "which this gateway has loaded"

    run_story(tmp_path, story, Node("a", state="switching"), aliases={"poet": Alias(model="active", temperature=0.25)})


def test_a_request_is_not_held_for_ever(tmp_path: Path) -> None:
    async def story(there: Fleet) -> None:
        answer = await there.ask()
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert "local: cordoned, a: switching" in answer.json()["error"]["message"]
        older = await there.ask({"x-min-model-version": "1"})
        assert (older.status_code, older.json()["error"]["code"]) == (409, "model_version_unavailable")
        assert older.headers["retry-after"] == "1"

    run_story(tmp_path, story, Node("a", state="switching"), hold_timeout_s=0.3)


def test_versions_hold_across_members(tmp_path: Path) -> None:
    async def story(there: Fleet) -> None:
        for headers, by in (({"x-min-model-version": "2"}, "b"), ({"x-model-version": "1"}, "a")):
            for _ in range(4):
                answer = await there.ask(headers)
                assert answered_by(answer) == by
        past = await there.ask({"x-model-version": "0"})
        assert (past.status_code, past.json()["error"]["code"]) == (409, "model_version_unavailable")
        both = await there.ask({"x-model-version": "1", "x-min-model-version": "1"})
        assert both.status_code == 400

    run_story(tmp_path, story, Node("a", version=1), Node("b", version=2, digest="sha256:2"))


def test_no_client_sees_an_older_version_than_it_has_seen(tmp_path: Path) -> None:
    """Members get the next version one after another, under load, and control says so a little later."""

    async def client(there: Fleet, seen: list[int], over: asyncio.Event) -> None:
        while not over.is_set() or seen[-1] < 3:
            answer = await there.ask({"x-min-model-version": str(seen[-1])})
            assert answer.status_code == 200, answer.text
            version = int(answer.headers["x-model-version"])
            assert answer.headers["x-model-digest"] == f"sha256:{version}"
            seen.append(version)

    async def story(there: Fleet) -> None:
        over = asyncio.Event()
        histories = [[0] for _ in range(8)]
        clients = [asyncio.create_task(client(there, seen, over)) for seen in histories]
        for version in (1, 2, 3):
            for node in there.nodes:
                before = len(node.server.seen)
                node.control_says = {"version": node.version, "digest": node.digest}
                node.version, node.digest = version, f"sha256:{version}"
                # Nobody who has seen this version asks a member that has an older one, as far as control has said.
                async with asyncio.timeout(240):
                    while len(node.server.seen) == before and any(seen[-1] < version for seen in histories):
                        assert not any(task.done() for task in clients)
                        await asyncio.sleep(0.001)
                node.control_says = {}
        over.set()
        await asyncio.gather(*clients)
        for seen in histories:
            assert seen == sorted(seen)
            assert seen[-1] == 3

    run_story(tmp_path, story, Node("a"), Node("b"), Node("c"))


def test_sessions_stay_and_move_with_their_member(tmp_path: Path) -> None:
    async def story(there: Fleet) -> None:
        homes = {}
        for number in range(24):
            session = {"x-session-id": f"s{number}"}
            homes[number] = answered_by(await there.ask(session))
            assert answered_by(await there.ask(session)) == homes[number]
        assert len(set(homes.values())) == 3
        gone = homes[0]
        next(each for each in there.nodes if each.name == gone).state = "draining"
        await there.seen()
        for number, home in homes.items():
            now = answered_by(await there.ask({"x-session-id": f"s{number}"}))
            assert (now == home) == (home != gone)

    run_story(tmp_path, story, Node("a"), Node("b"), Node("c"))


def test_control_is_away_and_comes_back(tmp_path: Path) -> None:
    async def story(there: Fleet) -> None:
        socket = there.head.settings.layout.control_socket
        away = socket.rename(socket.with_suffix(".away"))
        await there.seen()
        assert answered_by(await there.ask()) in {"a", "b"}
        there.nodes[0].state = "lost"
        away.rename(socket)
        await there.seen()
        assert [answered_by(await there.ask()) for _ in range(3)] == ["b"] * 3

    run_story(tmp_path, story, Node("a"), Node("b"))


def test_what_a_member_gets_of_a_request(tmp_path: Path) -> None:
    async def story(there: Fleet) -> None:
        await there.ask({"authorization": "Bearer mine", "cookie": "c=1"}, model="poet")
        said = [{"role": "user", "content": "?"}]
        answer = await there.head.http.post("/api/chat", json={"model": MODEL, "messages": said, "stream": False})
        assert answered_by(answer) == "a", "in Ollama's words too"
        refused = await there.ask(model="nobody")
        assert refused.status_code == 404
        (headers, body), _ = there.nodes[0].server.seen
        assert headers["authorization"] == "Bearer mine"
        assert "cookie" not in headers
        asked = json.loads(body)
        assert (asked["model"], asked["temperature"]) == (MODEL, 0.25), "members know no aliases"

    run_story(tmp_path, story, Node("a"), aliases={"poet": Alias(model=MODEL, temperature=0.25)})


def test_a_member_refuses_what_the_client_asks_wrongly(tmp_path: Path) -> None:
    async def story(there: Fleet) -> None:
        answer = await there.ask()
        assert answer.status_code == 400
        assert "max_tokens is too large" in answer.json()["error"]["message"]
        assert sum(len(each.server.seen) for each in there.nodes) == 1

    run_story(tmp_path, story, *(Node(name, behave=misbehaving.says_no) for name in "ab"))


async def test_a_member_that_is_asked_directly_says_who_it_is(tmp_path: Path) -> None:
    settings = FleetSettings(control="http://127.0.0.1:1", id="m7")
    async with full_stack(tmp_path, with_control=False, access=OPEN, fleet=settings) as there:
        model = ModelRef(id=MODEL, path=str(tmp_path), digest=DIGEST)
        await there.gateway.pool.activate(ActivateRequest(model=model))
        assert there.gateway.balancing is None, "what it gets is for itself"
        answer = await there.http.post("/v1/completions", json={"model": MODEL, "prompt": "?"})
        assert answered_by(answer) == "m7"


def test_a_request_that_kills_engines_goes_through_three(tmp_path: Path) -> None:
    async def story(there: Fleet) -> None:
        assert (await there.ask()).status_code == 502
        assert sum(len(each.server.seen) for each in there.nodes) == 3

    run_story(tmp_path, story, *(Node(name, behave=misbehaving.dies) for name in "abcde"))
