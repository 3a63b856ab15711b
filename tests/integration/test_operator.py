"""The operator as a process, between an API server that is a process too and a real control with a public port."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from pydantic import SecretStr

from stepserve import AsyncClient
from stepserve.access_settings import AccessSettings
from stepserve.operator.rollout import RolloutSpec, RolloutStatus
from tests.e2e.server import free_port
from tests.eventually import DEADLINE_S, eventually
from tests.integration import fake_kubernetes
from tests.integration.fake_gateway import FakeGateway
from tests.integration.fake_kubernetes import Kubernetes
from tests.integration.forked import Command, Forked
from tests.integration.forked_operator import run_operator
from tests.integration.programs import REPOSITORY, environment_of, python
from tests.integration.public_server import PublicServer, public_server
from tests.integration.test_promotions import knowing
from tests.unit.control.checkpoint_files import write_checkpoint

MANIFESTS = REPOSITORY / "deploy" / "kubernetes" / "operator"
NAMESPACE = "serving"
RESOURCES = f"/apis/stepserve.dev/v1alpha1/namespaces/{NAMESPACE}/checkpointrollouts"
MERGE = {"content-type": "application/merge-patch+json"}
KEY = "k" * 32
ARGUMENTS = ("--namespace", NAMESPACE, "--observe-every-s", "0.2")
SUITE = {"suite": [{"dataset_ref": "sums", "metric": "numeric"}]}

Rollout = dict[str, Any]


@dataclass
class Cluster:
    """`kubernetes` has all rights; the operator has those of its Role. `a` is active, `b` lies beside it."""

    kubernetes: httpx.AsyncClient
    server: PublicServer
    folder: Path
    operator: Forked | None = None

    @property
    def gateway(self) -> FakeGateway:
        return self.server.gateway

    def environment(self, **settings: object) -> dict[str, str]:
        given = {"KUBECONFIG": self.folder / "kubeconfig", "INFERENCE_URL": self.server.url, "INFERENCE_API_KEY": KEY}
        return environment_of(self.folder, given | settings)

    def start(self, **settings: object) -> None:
        log = self.folder / "operator.log"
        arguments = (*ARGUMENTS, "--probe-port", "0")
        self.operator = Forked(
            Command(run_operator, "operator", arguments, self.folder, log, log), self.environment(**settings)
        )

    def kill(self) -> None:
        assert self.operator is not None
        end(self.operator)

    def end(self) -> None:
        if self.operator is not None:
            end(self.operator)

    def client(self) -> AsyncClient:
        return AsyncClient(self.server.url, api_key=KEY)

    async def create(self, name: str, **spec: Any) -> None:
        answer = await self.ask_for(name, **spec)
        assert answer.status_code == 201, answer.text

    async def ask_for(self, name: str, **spec: Any) -> httpx.Response:
        body = {"apiVersion": "stepserve.dev/v1alpha1", "kind": "CheckpointRollout", "metadata": {"name": name}}
        return await self.kubernetes.post(RESOURCES, json=body | {"spec": spec})

    async def change(self, name: str, **spec: Any) -> None:
        answer = await self.kubernetes.patch(f"{RESOURCES}/{name}", json={"spec": spec}, headers=MERGE)
        assert answer.status_code == 200, answer.text

    async def look(self, name: str) -> Rollout:
        answer = await self.kubernetes.get(f"{RESOURCES}/{name}")
        assert answer.status_code == 200, answer.text
        found: Rollout = answer.json()
        return found

    async def until(self, name: str, phase: str, reason: str | None = None) -> Rollout:
        """Once the newest generation is there."""

        def there(found: Rollout) -> bool:
            said = found.get("status", {})
            newest = said.get("observedGeneration") == found["metadata"]["generation"]
            return newest and said.get("phase") == phase and reason in {None, reason_of(found)}

        found: Rollout = await eventually(lambda: self.look(name), there)
        return found

    async def order(self, **trouble: Any) -> None:
        (await self.kubernetes.post("/test/order", json=trouble)).raise_for_status()

    async def told(self) -> dict[str, Any]:
        said: dict[str, Any] = (await self.kubernetes.get("/test/told")).json()
        return said

    async def register(self, model_id: str, seed: int) -> None:
        write_checkpoint(self.server.layout.models / model_id, seed)
        async with self.client() as client:
            await client.register_model(model_id)

    async def activate(self, model_id: str) -> None:
        async with self.client() as client:
            await client.set_active_model(model_id)

    async def until_asked(self) -> None:
        """Until the gateway has a switch to do, which takes as long as the test says."""
        async with asyncio.timeout(DEADLINE_S):
            await self.gateway.switch_asked.wait()
        self.gateway.switch_asked.clear()

    async def until_over(self) -> None:
        await eventually(self.activations, lambda rows: all(state != "running" for _, state in rows))

    async def until_log(self, text: str, times: int) -> None:
        async def count() -> int:
            return (self.folder / "operator.log").read_text().count(text)

        await eventually(count, lambda seen: seen >= times)

    async def activations(self) -> list[tuple[str, str]]:
        """Oldest first."""
        async with self.client() as client:
            return [(row.id, row.status) for row in reversed(await client.list_activations())]


def reason_of(found: Rollout) -> str:
    return str(condition(found, "Serving")["reason"])


def condition(found: Rollout, kind: str) -> dict[str, Any]:
    return next(one for one in found["status"]["conditions"] if one["type"] == kind)


def true_conditions(found: Rollout) -> list[str]:
    return [one["type"] for one in found["status"]["conditions"] if one["status"] == "True"]


@asynccontextmanager
async def cluster(base: Path) -> AsyncIterator[Cluster]:
    """Without an operator that runs."""
    port = free_port()
    folder = base / "operator"
    folder.mkdir()
    write_kubeconfig(folder / "kubeconfig", port)
    api = Forked(partial(fake_kubernetes.main, port, *files()), environment_of(folder, {}))
    async with AsyncExitStack() as stack:
        stack.callback(end, api)
        url = f"http://127.0.0.1:{port}"
        headers = {"authorization": "Bearer admin"}
        kubernetes = await stack.enter_async_context(httpx.AsyncClient(base_url=url, headers=headers, timeout=240))
        keys = AccessSettings(mode="keys", admin_key=SecretStr(KEY))
        server = await stack.enter_async_context(public_server(base / "server", access=keys))
        here = Cluster(kubernetes, server, folder)
        stack.callback(here.end)
        await here.register("a", 0)
        await here.activate("a")
        await here.register("b", 1)
        here.gateway.switch_asked.clear()
        await eventually(lambda: answers(kubernetes), bool)
        yield here
        assert (await here.told())["forbidden"] == [], "its Role is too small"


def files() -> tuple[Path, Path]:
    return MANIFESTS / "crd.yaml", MANIFESTS / "rbac.yaml"


def end(process: Forked) -> None:
    process.kill()
    process.wait()


async def answers(kubernetes: httpx.AsyncClient) -> bool:
    try:
        return (await kubernetes.get("/api")).status_code == 200
    except httpx.TransportError:
        return False


def write_kubeconfig(file: Path, port: int) -> None:
    whole = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "operator", "namespace": NAMESPACE}}],
        "clusters": [{"name": "test", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "operator", "user": {"token": "operator"}}],
    }
    file.write_text(yaml.safe_dump(whole))


@contextmanager
def as_a_command(here: Cluster, probe_port: int) -> Iterator[None]:
    """The operator as its Deployment starts it; elsewhere it is forked from a process that has imported it."""
    command = [sys.executable, "-m", "stepserve.operator", *ARGUMENTS, "--probe-port", str(probe_port)]
    with subprocess.Popen(command, cwd=here.folder, env=here.environment(), stderr=subprocess.DEVNULL) as operator:
        try:
            yield
        finally:
            operator.kill()


async def test_a_rollout_switches_once_and_says_what_serves(tmp_path: Path) -> None:
    probe = free_port()
    async with cluster(tmp_path) as here:
        with as_a_command(here, probe):
            await here.create("production", model="b")
            found = await here.until("production", "Serving")
            assert (await here.kubernetes.get(f"http://127.0.0.1:{probe}/healthz")).status_code == 200
            said = found["status"]
            assert (said["active"], said["previous"], said["method"], said["pausedMs"]) == ("b", "a", "restart", 10.0)
            assert true_conditions(found) == ["Serving"]
            async with here.client() as client:
                assert said["digest"] == (await client.active_model()).digest
            assert await here.activations() == [("a", "done"), ("b", "done")]
            events = [(one["type"], one["reason"]) for one in (await here.told())["events"]]
            assert events[0] == ("Normal", "Beginning")
            assert events[-1] == ("Normal", "Active")
            # Nothing keeps people from deleting it, and that switches nothing.
            assert "finalizers" not in found["metadata"]
            assert (await here.kubernetes.delete(f"{RESOURCES}/production")).status_code == 200
            assert (await here.kubernetes.get(f"{RESOURCES}/production")).status_code == 404
            assert here.gateway.active is not None
            assert here.gateway.active.id == "b"


def test_without_kopf_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "kopf.py").write_text("raise ModuleNotFoundError('No module named kopf', name='kopf')")
    path = f"{tmp_path}:{REPOSITORY}"
    ended = python(tmp_path, "-m", "stepserve.operator", "--namespace", "n", PYTHONPATH=path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "pip install 'stepserve[operator]'" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("ends", ["before the restart", "after it"])
async def test_killed_in_the_middle_of_a_switch_it_asks_for_no_second_one(tmp_path: Path, ends: str) -> None:
    async with cluster(tmp_path) as here:
        here.gateway.may_switch.clear()
        here.start()
        await here.create("production", model="b")
        await here.until_asked()
        here.kill()
        if ends == "before the restart":
            here.gateway.may_switch.set()
            await here.until_over()
        here.start()
        if ends == "after it":
            await here.until_log("Initial authentication has finished", 2)
            here.gateway.may_switch.set()
        await here.until("production", "Serving")
        assert await here.activations() == [("a", "done"), ("b", "done")]
        assert len(here.gateway.asked) == 2


async def test_killed_at_any_moment_it_switches_once_for_each_change(tmp_path: Path) -> None:
    async with cluster(tmp_path) as here:
        here.start()
        await here.create("production", model="b")
        await here.until("production", "Serving")
        wanted = ["a", "b"]
        for number, after_s in enumerate([0.0, 0.05, 0.1, 0.3]):
            wanted.append("ab"[number % 2])
            await here.change("production", model=wanted[-1])
            await asyncio.sleep(after_s)
            here.kill()
            here.start()
            await here.until("production", "Serving")
        assert await here.activations() == [(model, "done") for model in wanted]
        assert here.gateway.activated == wanted


async def test_a_candidate_that_fails_is_tried_again_only_when_asked_for(tmp_path: Path) -> None:
    async with cluster(tmp_path) as here:
        here.gateway.fail_with = "the engine died while it loaded b"
        here.gateway.may_switch.clear()
        here.start()
        await here.create("production", model="b")
        await here.until_asked()
        here.kill()
        here.gateway.may_switch.set()
        await here.until_over()
        here.start()
        found = await here.until("production", "Failed")
        assert true_conditions(found) == ["Failed"]
        assert "the engine died while it loaded b" in condition(found, "Failed")["message"]
        assert (found["status"]["active"], reason_of(found)) == ("a", "SwitchFailed")

        here.gateway.fail_with = None
        here.kill()
        here.start()
        await here.until_log("'reconcile' succeeded", 2)
        assert await here.activations() == [("a", "done"), ("b", "failed")]

        await here.change("production", attempt=1)
        found = await here.until("production", "Serving")
        assert await here.activations() == [("a", "done"), ("b", "failed"), ("b", "done")]
        warnings = [one for one in (await here.told())["events"] if one["type"] == "Warning"]
        assert [one["reason"] for one in warnings] == ["SwitchFailed"]


async def test_a_spec_that_goes_back_switches_back(tmp_path: Path) -> None:
    async with cluster(tmp_path) as here:
        here.start()
        await here.create("production", model="b")
        await here.until("production", "Serving")
        await here.change("production", model="a", method="restart", inFlight="keep", timeoutSeconds=60)
        found = await here.until("production", "Serving")
        assert (found["status"]["active"], found["status"]["previous"]) == ("a", "b")
        assert here.gateway.activated == ["a", "b", "a"]
        last = here.gateway.asked[-1]
        assert (last.method, last.in_flight, last.timeout_s) == ("restart", "keep", 60)


async def test_a_switch_by_other_hands_is_reported_and_not_undone(tmp_path: Path) -> None:
    async with cluster(tmp_path) as here:
        here.start()
        await here.create("production", model="b")
        since = condition(await here.until("production", "Serving"), "Failed")["lastTransitionTime"]
        await here.activate("a")
        found = await here.until("production", "Superseded")
        assert (true_conditions(found), found["status"]["active"]) == ([], "a")
        assert "a is active now" in condition(found, "Serving")["message"]
        assert condition(found, "Failed")["lastTransitionTime"] == since
        await here.activate("b")
        await here.until("production", "Serving")
        assert here.gateway.activated == ["a", "b", "a", "b"]


async def test_it_lives_through_what_an_api_server_does(tmp_path: Path) -> None:
    """Conflicts, errors, watches that end, and versions that expire: each change is one switch all the same."""
    async with cluster(tmp_path) as here:
        here.start()
        await here.create("production", model="b")
        await here.until("production", "Serving")
        troubles: list[dict[str, Any]] = [
            {"expire": True},
            {"cut": True},
            {"refuse": {"method": "PATCH", "path": "/status", "status": 409, "times": 1}},
            {"refuse": {"method": "PATCH", "path": "/production", "status": 409, "times": 1}},
            {"refuse": {"method": "PATCH", "path": "/status", "status": 500, "times": 2}},
            {"refuse": {"method": "POST", "path": "/events", "status": 403, "times": 1}},
        ]
        wanted = ["a", "b"]
        for number, trouble in enumerate(troubles):
            await here.order(**trouble)
            wanted.append("ab"[number % 2])
            await here.change("production", model=wanted[-1])
            await here.until("production", "Serving")
        assert here.gateway.activated == wanted
        assert {one["times"] for one in (await here.told())["trouble"]} == {0}


async def test_what_stands_in_the_way_is_the_reason(tmp_path: Path) -> None:
    async with cluster(tmp_path) as here:
        here.start(INFERENCE_URL=f"http://127.0.0.1:{free_port()}")
        await here.create("production", model="b")
        found = await here.until("production", "Progressing", "ServerAway")
        assert "No server can be reached at http://127.0.0.1" in condition(found, "Progressing")["message"]
        here.kill()

        here.start(INFERENCE_API_KEY="wrong" * 8)
        await here.until("production", "Progressing", "KeyRefused")
        here.kill()

        here.start()
        await here.create("unknown", model="nobody")
        found = await here.until("unknown", "Progressing", "NotFound")
        assert "nobody" in condition(found, "Progressing")["message"]


def test_the_schema_refuses_what_no_server_would_take() -> None:
    crd, _ = files()
    here = Kubernetes(yaml.safe_load(crd.read_text()), {"rules": []})
    assert here.refusal({"spec": {"model": "b", "promotion": SUITE}}) is None
    for spec, field in (
        ({}, "model"),
        ({"model": "b", "wave": "3"}, "wave"),
        ({"model": "b", "timeoutSeconds": 0}, "timeoutSeconds"),
        ({"model": "b", "promotion": {"suite": []}}, "suite"),
    ):
        assert field in str(here.refusal({"spec": spec}))


def test_the_schema_has_the_fields_and_defaults_of_the_program() -> None:
    crd, _ = files()
    parts = Kubernetes(yaml.safe_load(crd.read_text()), {"rules": []}).schema["properties"]
    for part, kind in (("spec", RolloutSpec), ("status", RolloutStatus)):
        said = {name: one.get("default") for name, one in parts[part]["properties"].items()}
        fields = kind.model_fields.values()
        ours = {str(one.alias): one.default for one in fields}
        assert said.keys() == ours.keys()
        assert part == "status" or {name: ours[name] for name in said if said[name] is not None} == {
            name: value for name, value in said.items() if value is not None
        }


async def test_a_switch_that_is_to_be_earned(tmp_path: Path) -> None:
    """One promotion, although the operator is killed while it runs; then one that is refused."""
    async with cluster(tmp_path) as here:
        lines = [{"question": f"What is {a}+1?", "answer": a + 1} for a in range(400)]
        (here.server.layout.datasets / "sums.jsonl").write_text("\n".join(map(json.dumps, lines)))
        await here.register("bad", 2)
        for model, share in (("a", 0.5), ("b", 0.9), ("bad", 0.2)):
            here.gateway.answers[model] = knowing(share)
            here.gateway.has_room_for.add(model)
        here.start()
        await here.create("production", model="b", promotion=SUITE)
        found = await eventually(lambda: here.look("production"), lambda one: "jobId" in one.get("status", {}))
        here.kill()
        here.start()
        served = await here.until("production", "Serving")
        assert served["status"]["jobId"] == found["status"]["jobId"]
        assert served["status"]["previous"] == "a"

        await here.change("production", model="bad")
        refused = await here.until("production", "Failed", "PromotionRefused")
        assert "is shown to be worse" in condition(refused, "Failed")["message"]
        assert (refused["status"]["active"], here.gateway.activated) == ("b", ["a", "b"])
        async with here.client() as client:
            assert len(await client.list_jobs()) == 2


async def test_a_promotion_that_nobody_wants_any_more_is_cancelled(tmp_path: Path) -> None:
    async with cluster(tmp_path) as here:
        (here.server.layout.datasets / "sums.jsonl").write_text('{"question": "What is 1+1?", "answer": 2}\n')
        here.gateway.has_room_for.add("b")

        async def hangs(_: object) -> None:
            await asyncio.Event().wait()

        here.gateway.before_batch = hangs
        here.start()
        await here.create("production", model="b", promotion=SUITE)
        found = await eventually(lambda: here.look("production"), lambda one: "jobId" in one.get("status", {}))
        await here.change("production", promotion=None)
        await here.until("production", "Serving")
        async with here.client() as client:
            assert (await client.get_job(found["status"]["jobId"])).status == "cancelled"
