"""Pushes of weights to a head with real gateways as members, over engines that are told what to answer."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.errors import EngineReloadFailed
from stepserve.contract import ModelRef
from stepserve.fleet import MEMBER_PREFIX, MEMBER_STAGE_PATH, StageAnswer, StageRequest
from stepserve.fleet_settings import FleetSettings
from tests.e2e.server import free_port
from tests.eventually import eventually
from tests.integration.full_stack import MODEL, FullStack, bearer, full_stack, listening
from tests.integration.test_fleet_rollout import Answering
from tests.integration.test_weight_deltas import ONE, delta, put
from tests.integration.test_weights import OTHER, safetensors
from tests.unit.control.checkpoint_files import weights

ROUTE = f"/models/{MODEL}/weights"
PHASES = ("/init_weight_transfer_engine", {"init_info": {"backend": "http"}})


class Refusing(Answering):
    """Does not take the next weights that are pushed when it `refuses`."""

    refuses = False

    async def reload(self, model: ModelRef, weights: Path | None = None) -> None:
        if self.refuses and weights is not None:
            self.refuses = False
            raise EngineReloadFailed("a tensor cannot be copied on this machine")
        await super().reload(model, weights)


@dataclass
class Elsewhere:
    """The way to a member on another machine, which does not see control's folders. `fetched_bytes`: of each staging.
    `deltas`: whether it was told of one.
    """

    url: str
    fetched_bytes: list[int] = field(default_factory=list)
    deltas: list[bool] = field(default_factory=list)

    async def carry(self, request: Request) -> Response:
        content = await request.body()
        is_staging = request.url.path == MEMBER_PREFIX + MEMBER_STAGE_PATH
        if is_staging:
            asked = StageRequest.model_validate_json(content)
            model = asked.model.model_copy(update={"path": f"/elsewhere{asked.model.path}"})
            content = asked.model_copy(update={"model": model}).model_dump_json().encode()
            self.deltas.append(asked.manifests[0].delta is not None)
        headers = {name: value for name, value in request.headers.items() if name != "content-length"}
        async with httpx.AsyncClient(base_url=self.url, timeout=240) as http:
            path = f"{request.url.path}?{request.url.query}"
            answer = await http.request(request.method, path, content=content, headers=headers)
        if is_staging and answer.status_code == 200:
            self.fetched_bytes.append(StageAnswer.model_validate_json(answer.content).fetched_bytes)
        kind = answer.headers.get("content-type")
        return Response(answer.content, answer.status_code, media_type=kind)


@dataclass
class Pair:
    """The head, and gateways that join when they are told to."""

    head: FullStack
    base: Path
    stack: AsyncExitStack
    admin: dict[str, str]
    trainer: dict[str, str]
    joins: SecretStr
    engines: dict[str, Refusing] = field(default_factory=dict)
    names: list[str] = field(default_factory=lambda: ["local"])

    async def join_from_elsewhere(self, name: str) -> Elsewhere:
        """A member that does not see the head's files."""
        port = free_port()
        way = Elsewhere(f"http://127.0.0.1:{port}")
        app = Starlette(routes=[Route("/{path:path}", way.carry, methods=["GET", "POST", "PUT", "DELETE"])])
        there = await self.stack.enter_async_context(listening(app, self.head.settings))
        await self.join(name, port=port, advertise=f"http://127.0.0.1:{there}")
        return way

    async def join(self, name: str, *, port: int | None = None, advertise: str | None = None) -> FullStack:
        """Its state is not waited for."""
        self.names.append(name)
        settings = FleetSettings(control=self.head.url, api_key=self.joins, id=name, lease_s=30.0, advertise=advertise)

        def make(ref: ModelRef) -> Refusing:
            self.engines[name] = Refusing(ref)
            return self.engines[name]

        member = await self.stack.enter_async_context(
            full_stack(self.base / name, with_control=False, port=port or free_port(), fleet=settings, make_engine=make)
        )
        assert member.gateway.member is not None
        joining = asyncio.create_task(member.gateway.member.membership.run(lambda: asyncio.sleep(0)))
        self.stack.push_async_callback(_ended, joining)
        return member

    async def seen(self, enough: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        async def look() -> dict[str, Any]:
            shown: dict[str, Any] = (await self.head.owner.get("/fleet")).json()
            return shown

        found: dict[str, Any] = await eventually(look, enough)
        return found

    async def all_serve(self, version: int) -> dict[str, Any]:
        """Once every gateway is there, and ready with that version."""

        def do(shown: dict[str, Any]) -> bool:
            served = [(each["id"], each["state"], each["version"], each["digest"]) for each in shown["gateways"]]
            return served == [(name, "ready", version, shown["committed"]["digest"]) for name in self.names]

        return await self.seen(do)

    async def push(self, tensors: dict[str, bytes] = OTHER, **params: str) -> httpx.Response:
        return await self.head.http.put(ROUTE, params=params, content=safetensors(tensors), headers=self.trainer)


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def pair(base: Path, *members: str) -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:
        head = await stack.enter_async_context(
            full_stack(base / "head", make_engine=Refusing, fleet=FleetSettings(lease_s=30.0))
        )
        admin = bearer(await head.key(scopes=["admin"]))
        trainer = bearer(await head.key(scopes=["weights", "infer"]))
        there = Pair(head, base, stack, admin, trainer, SecretStr(await head.key(scopes=["fleet"])))
        for name in members:
            await there.join(name)
        if members:
            await there.all_serve(0)
            await eventually(
                lambda: asyncio.sleep(0, head.gateway.balancing), lambda parts: parts.link.members.is_fleet
            )
        yield there


async def test_a_push_is_served_by_all_gateways_and_by_one_that_joins_later(tmp_path: Path) -> None:
    async with pair(tmp_path, "m1", "m2") as there:
        answer = await there.push(version="step-7")
        assert answer.status_code == 200, answer.text
        pushed = answer.json()
        assert (pushed["version"], pushed["weight_version"]) == (1, "step-7")
        went = {each["id"]: (each["method"], each["proof"]["kind"], each["error"]) for each in pushed["gateways"]}
        assert went == dict.fromkeys(("local", "m1", "m2"), ("push", "changed", None))
        shown = await there.all_serve(1)
        assert shown["committed"] == {"model": MODEL, "digest": pushed["digest"], "version": 1}
        assert (shown["rollout"]["version"], shown["rollout"]["state"]) == (1, "committed")
        assert [step["wave"] for step in shown["rollout"]["steps"]] == [0, 1, 2]

        await there.join("m3")
        await there.all_serve(1)
        assert there.engines["m3"].weights == there.engines["m1"].weights

        answer = await there.push(weights(9))
        assert (answer.status_code, answer.json()["version"]) == (200, 2), answer.text
        await there.all_serve(2)
        kept = [each.name for each in there.head.settings.layout.pushed.iterdir()]
        assert kept == [f"{MODEL}-v2"], "a version that nobody needs any more takes room"

        answer = await there.head.http.post("/models/set_active", json={"id": MODEL}, headers=there.admin)
        assert answer.status_code == 200, answer.text
        await there.all_serve(0)
        assert not list(there.head.settings.layout.pushed.iterdir())


async def test_a_push_that_one_member_does_not_take_is_taken_back_everywhere(tmp_path: Path) -> None:
    async with pair(tmp_path, "m1", "m2") as there:
        first = (await there.push()).json()
        there.engines["m2"].refuses = True
        answer = await there.push(weights(9))
        assert answer.status_code == 500
        body = answer.json()
        assert "m2 failed" in body["detail"]
        assert "a tensor cannot be copied on this machine" in body["detail"]
        assert body["rolled_back_to"] == 1
        assert {each["id"]: each["error"] is None for each in body["gateways"]} == {
            "local": True, "m1": True, "m2": False,
        }  # fmt: skip
        shown = await there.all_serve(1)
        assert shown["committed"]["digest"] == first["digest"]
        assert shown["rollout"]["state"] == "rolled_back"

        third = await there.push(weights(9))
        assert (third.status_code, third.json()["version"]) == (200, 3), "a number is not given twice"
        await there.all_serve(3)


async def test_what_was_pushed_before_there_were_members_is_theirs_too(tmp_path: Path) -> None:
    async with pair(tmp_path) as there:
        answer = await there.push(version="alone")
        assert answer.status_code == 200, answer.text
        assert "gateways" not in answer.json()
        assert not there.head.settings.layout.pushed.exists(), "nobody needs it on disk"
        await there.join("m1")
        shown = await there.all_serve(1)
        assert shown["committed"]["version"] == 1
        assert shown["committed"]["digest"] == answer.json()["digest"]


async def test_a_gateway_whose_engine_died_is_brought_to_the_version_again(tmp_path: Path) -> None:
    async with pair(tmp_path, "m1") as there:
        assert (await there.push()).status_code == 200
        await there.all_serve(1)
        there.engines["m1"].dead = True
        there.head.engine.dead = True
        await there.seen(lambda shown: shown["gateways"][1]["state"] != "ready")
        await there.all_serve(1)


async def test_updates_in_phases_and_deltas_reach_the_members(tmp_path: Path) -> None:
    async with pair(tmp_path, "m1") as there:

        async def post(path: str, **asked: Any) -> httpx.Response:
            return await there.head.http.post(path, headers=there.trainer, **asked)

        for path in ("/pause", "/start_weight_update?mode=wait"):
            refused = await post(path, json={})
            assert (refused.status_code, refused.json()["code"]) == (409, "update_refused"), refused.text
            assert "would hold the requests of this gateway alone" in refused.json()["detail"]
        for path, body in (PHASES, ("/start_weight_update", {})):
            assert (await post(path, json=body)).status_code == 200
        assert (await post("/update_weights", content=safetensors(OTHER))).status_code == 200
        finished = await post("/finish_weight_update", json={"weight_version": "step-9"})
        assert finished.status_code == 200, finished.text
        assert [each["id"] for each in finished.json()["gateways"]] == ["local", "m1"]
        await there.all_serve(1)

        there.head.http.headers.update(there.trainer)
        changed = await delta(there.head, OTHER, ONE)
        answer = await put(there.head, finished.json()["digest"], changed)
        assert answer.status_code == 200, answer.text
        assert (answer.json()["changed"], len(answer.json()["gateways"])) == (1, 2)
        await there.all_serve(2)
        assert all(data in there.engines["m1"].weights for data in ONE.values()), "what a member was given"


async def test_a_delta_goes_to_members_as_a_delta(tmp_path: Path) -> None:
    async with pair(tmp_path) as there:
        there.head.http.headers.update(there.trainer)
        way = await there.join_from_elsewhere("m1")
        await there.all_serve(0)
        whole = await there.push()
        assert whole.status_code == 200, whole.text
        await there.all_serve(1)
        assert way.fetched_bytes[-1] >= 96, "the first version comes whole"

        changed = await delta(there.head, OTHER, ONE)
        answer = await put(there.head, whole.json()["digest"], changed)
        assert answer.status_code == 200, answer.text
        await there.all_serve(2)
        assert way.fetched_bytes[-1] == len(changed), "nothing but what the trainer sent"
        assert all(data in there.engines["m1"].weights for data in ONE.values()), "what the member serves"

        late = await there.join_from_elsewhere("m2")
        await there.all_serve(2)
        assert there.engines["m2"].weights == there.engines["m1"].weights, "without the base it gets all of it"
        assert late.deltas[-1]
        assert late.fetched_bytes[-1] > 96

        back = await put(there.head, answer.json()["digest"], await delta(there.head, ONE, OTHER))
        assert back.status_code == 200, back.text
        await there.all_serve(3)
        assert there.engines["m2"].weights == there.engines["m1"].weights
        assert all(data in there.engines["m2"].weights for data in OTHER.values())


async def test_a_member_gets_all_of_a_version_whose_delta_does_not_fit(tmp_path: Path) -> None:
    async with pair(tmp_path) as there:
        there.head.http.headers.update(there.trainer)
        way = await there.join_from_elsewhere("m1")
        await there.all_serve(0)
        base = (await there.push()).json()["digest"]
        await there.all_serve(1)
        for weights_file in (there.base / "m1").rglob("model.safetensors"):
            content = bytearray(weights_file.read_bytes())
            content[-1] ^= 1  # the disk returns other bytes than were written, and the file's times are as they were
            times = weights_file.stat()
            with weights_file.open("r+b") as stream:
                stream.write(content)
            os.utime(weights_file, ns=(times.st_atime_ns, times.st_mtime_ns))
        changed = await delta(there.head, OTHER, ONE)
        answer = await put(there.head, base, changed)
        assert answer.status_code == 200, answer.text
        await there.all_serve(2)
        assert way.fetched_bytes[-1] > len(changed), "the delta, and then everything"
        assert all(data in there.engines["m1"].weights for data in ONE.values())


async def test_a_member_names_the_head_to_who_pushes_there(tmp_path: Path) -> None:
    async with pair(tmp_path) as there:
        member = await there.join("m1")
        await there.all_serve(0)
        for method, path, sent in (
            ("PUT", ROUTE, {"content": safetensors(OTHER)}),
            ("POST", PHASES[0], {"json": PHASES[1]}),
            ("POST", "/pause", {}),
        ):
            answer = await member.http.request(method, path, headers=there.trainer, **sent)
            assert answer.status_code == 421, (path, answer.text)
            assert there.head.url in answer.json()["detail"]


async def test_clients_of_the_head_see_committed_versions_alone(tmp_path: Path) -> None:
    async with pair(tmp_path, "m1", "m2") as there:
        over = asyncio.Event()

        async def asking() -> list[int]:
            seen = []
            while not over.is_set():
                body = {"model": "active", "messages": [{"role": "user", "content": "?"}]}
                answer = await there.head.http.post("/v1/chat/completions", json=body, headers=there.trainer)
                assert answer.status_code == 200, answer.text
                seen.append(int(answer.headers["x-model-version"]))
            return seen

        clients = [asyncio.create_task(asking()) for _ in range(3)]
        assert (await there.push()).status_code == 200
        there.engines["m2"].refuses = True
        assert (await there.push(weights(9))).status_code == 500
        assert (await there.push(weights(5))).status_code == 200
        over.set()
        for seen in await asyncio.gather(*clients):
            assert 2 not in seen, "an answer of a version that was taken back"
            assert seen == sorted(seen), "an answer of an older version after a newer one"
