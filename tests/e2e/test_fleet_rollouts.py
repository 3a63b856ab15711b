"""Twenty rollouts to three gateways while clients ask the head: switches of the model, then pushes of weights."""

import itertools
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from safetensors.torch import load_file

from stepserve.client import Client
from tests.e2e.server import EARLY, FINAL, FINAL_ID, Server, answer_of
from tests.e2e.test_fleet import Member, fleet
from tests.eventually import wait_until

pytestmark = pytest.mark.long

_EARLY_ID = "early-for-rollouts"
_NAMES = ("m1", "m2")  # and the head's own
_SWITCHES = _PUSHES = 10
_CLIENTS = 8
_QUESTIONS = [f"What is {a}+{b}?" for a, b in ((17, 25), (48, 37), (99, 1), (60, 35), (28, 64), (73, 19))]

Right = Mapping[str, Mapping[str, str]]
"""What each digest answers to each question."""


@dataclass
class Seen:
    """What all clients saw. `older`: answers of an older version than the same client had seen before."""

    gateways: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    older: list[str] = field(default_factory=list)

    def check(self) -> None:
        assert (self.failed, self.wrong, self.older) == ([], [], []), self.gateways
        assert self.gateways.keys() == {"local", *_NAMES}, "each gateway answered somebody"


@contextmanager
def clients(server: Server, right: Right, *, pinned: bool) -> Iterator[Seen]:
    """Ask the head one question after the other; `pinned`: for no version below the last one that they saw."""
    seen, over = Seen(), threading.Event()

    def ask(number: int) -> None:
        least = 0
        with httpx.Client(base_url=server.url, timeout=300.0, trust_env=False) as http:
            for question in itertools.islice(itertools.cycle(_QUESTIONS), number, None):
                if over.is_set():
                    return
                body = {"model": "active", "messages": [{"role": "user", "content": question}], "temperature": 0}
                headers = {"x-min-model-version": str(least)} if pinned else {}
                answer = http.post("/v1/chat/completions", json=body, headers=headers)
                if answer.status_code != 200:
                    seen.failed.append(answer.text)
                    continue
                told = answer.headers
                version, said = int(told["x-model-version"]), answer_of(answer)
                seen.gateways[told["x-stepserve-gateway"]] += 1
                if said != right[told["x-model-digest"]][question]:
                    seen.wrong.append(f"{question} {said!r} of {told['x-model-digest']}")
                if version < least:
                    seen.older.append(f"{version} after {least}")
                least = version

    with ThreadPoolExecutor(_CLIENTS) as pool:
        asking = [pool.submit(ask, number) for number in range(_CLIENTS)]
        try:
            yield seen
        finally:
            over.set()
        for each in asking:
            each.result(300.0)


def answers(server: Server) -> dict[str, str]:
    return {question: answer_of(server.ask(question)) for question in _QUESTIONS}


def all_ready(server: Server) -> bool:
    states = {each["id"]: each["state"] for each in fleet(server)["gateways"]}
    return states == dict.fromkeys(("local", *_NAMES), "ready")


def test_twenty_rollouts_to_three_gateways_under_load(server: Server, tmp_path: Path) -> None:
    with ExitStack() as stack:
        for name in _NAMES:
            (tmp_path / name).mkdir()
            stack.callback(server.http.delete, f"/fleet/{name}")
            stack.enter_context(Member(tmp_path / name, server, name))
        roll_out(server)


def roll_out(server: Server) -> None:
    """Once all gateways are ready."""
    wait_until("all are ready", lambda: all_ready(server), 600.0)
    server.copy_checkpoint(EARLY, _EARLY_ID)
    with Client(server.url, timeout_s=300.0) as client, ExitStack() as stack:
        client.register_model(_EARLY_ID, "test")
        stack.callback(server.forget, _EARLY_ID)
        stack.callback(client.set_active_model, FINAL_ID)
        right: dict[str, dict[str, str]] = {}
        sources = [load_file(folder / "model.safetensors") for folder in (EARLY, FINAL)]
        for source in sources:
            right[client.push_weights(source).digest] = answers(server)
        for name in (_EARLY_ID, FINAL_ID):
            client.set_active_model(name)
            right[client.active_model().digest] = answers(server)
        assert len({tuple(said.values()) for said in right.values()}) == 2, "the two differ in what they answer"

        with clients(server, right, pinned=False) as seen:
            for number in range(_SWITCHES):
                client.set_active_model((_EARLY_ID, FINAL_ID)[number % 2])
        seen.check()
        wait_until("all are ready after the switches", lambda: all_ready(server), 240.0)

        with clients(server, right, pinned=True) as seen:
            for number in range(_PUSHES):
                pushed = client.push_weights(sources[number % 2])
                assert {each["id"] for each in pushed.gateways or []} == {"local", *_NAMES}
        seen.check()
