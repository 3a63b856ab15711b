"""What clients see of a head and a real gateway that joined it, over engines that are told what to answer."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import httpx
from prometheus_client import REGISTRY
from pydantic import SecretStr

from gateway.http.asgi import Receive, Scope, Send, send_json
from stepserve.contract import ModelRef
from stepserve.fleet_settings import FleetSettings
from tests.e2e.server import free_port
from tests.eventually import eventually
from tests.integration.full_stack import FullStack, bearer, full_stack
from tests.unit.control.checkpoint_files import write_checkpoint
from tests.unit.gateway.fakes import FakeEngine


class Answering(FakeEngine):
    """Answers in JSON, so that a relay passes it on."""

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send_json(send, 200, {"choices": [{"message": {"content": self.ref.id}}], "usage": {"prompt_tokens": 1}})


class BadAtOne(Answering):
    """The model `bad` fails its proof, on this machine alone."""

    def __init__(self, ref: ModelRef) -> None:
        super().__init__(ref)
        self.sound = ref.id != "bad"

    async def reload(self, model: ModelRef, weights: Path | None = None) -> None:
        await super().reload(model, weights)
        self.sound = model.id != "bad"


@asynccontextmanager
async def pair(base: Path) -> AsyncIterator[tuple[FullStack, dict[str, str], dict[str, str]]]:
    """The head, once it sends requests to its member too, and the headers of an administrator and of a client."""
    async with full_stack(base / "head", make_engine=Answering) as head:
        admin, client = bearer(await head.key(scopes=["admin"])), bearer(await head.key(scopes=["infer"]))
        joins = SecretStr(await head.key(scopes=["fleet"]))
        for number, name in enumerate(("b", "bad"), 1):
            write_checkpoint(head.settings.layout.models / name, number)
            body = {"id": name, "source": "t"}
            (await head.http.post("/models/register", json=body, headers=admin)).raise_for_status()
        settings = FleetSettings(control=head.url, api_key=joins, id="m1")
        async with full_stack(
            base / "m1", with_control=False, port=free_port(), fleet=settings, make_engine=BadAtOne
        ) as member:
            assert member.gateway.member is not None
            joining = asyncio.create_task(member.gateway.member.membership.run(lambda: asyncio.sleep(0)))
            try:
                await eventually(lambda: ask(head, client), _by_member)
                yield head, admin, client
            finally:
                joining.cancel()
                await asyncio.gather(joining, return_exceptions=True)


async def ask(head: FullStack, headers: dict[str, str]) -> httpx.Response:
    body = {"model": "active", "messages": [{"role": "user", "content": "?"}]}
    return await head.http.post("/v1/chat/completions", json=body, headers=headers)


def _by_member(answer: httpx.Response) -> bool:
    by: str | None = answer.headers.get("x-stepserve-gateway")
    return by == "m1"


Seen = list[tuple[int, str, str]]
"""Status, model and gateway of one answer after another."""


async def asking(head: FullStack, headers: dict[str, str], over: asyncio.Event, seen: Seen) -> None:
    while not over.is_set():
        answer = await ask(head, headers)
        said = answer.headers
        seen.append((answer.status_code, said.get("x-model-id", ""), said.get("x-stepserve-gateway", "")))
        if answer.status_code == 200:
            assert json.loads(answer.content)["choices"][0]["message"]["content"] == said["x-model-id"]


def changes(models: list[str]) -> list[str]:
    """Each model once for as long as it was seen without another between."""
    return [model for model, _ in itertools.groupby(models)]


def test_clients_of_the_head_see_what_is_committed_and_nothing_else(tmp_path: Path) -> None:
    async def run() -> None:
        async with pair(tmp_path) as (head, admin, client):
            over, answers = asyncio.Event(), [Seen() for _ in range(4)]
            clients = [asyncio.create_task(asking(head, client, over, seen)) for seen in answers]

            def all_see(name: str) -> bool:
                return all(seen and seen[-1][1] == name for seen in answers)

            await eventually(lambda: asyncio.sleep(0, "a"), all_see)
            for name, status in (("b", 200), ("a", 200), ("bad", 500), ("b", 200)):
                answer = await head.http.post("/models/set_active", json={"id": name}, headers=admin)
                assert answer.status_code == status, answer.text
                assert {each["id"] for each in answer.json()["gateways"]} == {"local", "m1"}
                if status == 200:  # each client, however seldom it has its turn
                    await eventually(partial(asyncio.sleep, 0, name), all_see)
            await eventually(lambda: ask(head, client), _by_member)
            over.set()
            await asyncio.gather(*clients)
            for seen in answers:
                assert {status for status, _, _ in seen} == {200}
                assert changes([model for _, model, _ in seen]) == ["a", "b", "a", "b"]
            # Where no other member was ready at that moment, the head answers without a name.
            assert {by for seen in answers for _, _, by in seen} - {""} == {"local", "m1"}

    asyncio.run(run())


def test_usage_is_counted_once(tmp_path: Path) -> None:
    def counted() -> float:
        """Over both gateways, which share this process."""
        metrics = (each for metric in REGISTRY.collect() for each in metric.samples)
        return sum(each.value for each in metrics if each.name == "stepserve_key_requests_total")

    async def run() -> None:
        async with pair(tmp_path) as (head, _, client):
            before = counted()
            by = [(await ask(head, client)).headers["x-stepserve-gateway"] for _ in range(10)]
            assert set(by) == {"local", "m1"}
            assert counted() - before == 10

    asyncio.run(run())
