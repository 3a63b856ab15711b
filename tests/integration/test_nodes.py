"""One model over several machines: a real head and real nodes on loopback; instead of ranks a program that computes
nothing, and instead of the head's own engine a fake.
"""

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from gateway.errors import EngineReloadFailed, EngineStartFailed
from gateway.nodes.files import Files
from gateway.nodes.head import Nodes, NodesRefused, Software
from gateway.nodes.memory import NodesMemory
from gateway.nodes.peer import Facts, NodeRefused, Peer, Ranks
from gateway.serving.memory import Memory
from gateway.serving.slot import Engine, Slot
from stepserve.contract import EngineOverrides, ModelRef
from stepserve.node_settings import NodeSettings
from stepserve.settings import EngineSettings
from tests.e2e.server import EARLY, FINAL, free_port
from tests.eventually import eventually
from tests.unit.gateway.fakes import FakeEngine

KEY = "a key of the nodes"
HERE = Software("0.1.0", "0.32.0", "cpu")
FACTS = Facts("other", "127.0.0.1", "0.1.0", "0.32.0", "cpu", 2)


class Rig:
    """A head, and nodes that join it; `asked` are the models that the head's own engine was to start with."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.settings = NodeSettings.model_validate(
            {"address": "127.0.0.1", "port": free_port(), "key": KEY, "wait_s": 0.2} | settings
        )
        self.nodes = Nodes(self.settings, EngineSettings(args={"tensor_parallel_size": 2}), HERE)
        self.asked: list[ModelRef] = []
        self.may_start = asyncio.Event()
        self.may_start.set()
        self.reads_instead: Path | None = None  # by a node, which is on the same machine here
        self.start = self.nodes.starts(self._start_engine)

    async def _start_engine(self, model: ModelRef) -> Engine:
        self.asked.append(model)
        await self.may_start.wait()
        return FakeEngine(model)

    def model(self, name: str = "spread", checkpoint: Path = FINAL, nnodes: int = 2) -> ModelRef:
        path = self.folder / "models" / name
        if not path.exists():
            shutil.copytree(checkpoint, path)
        engine = EngineOverrides(args={"nnodes": nnodes}) if nnodes > 1 else None
        return ModelRef(id=name, path=str(path), digest=f"sha256:{name}", engine=engine)

    @asynccontextmanager
    async def node(self, facts: Facts = FACTS, key: str = KEY) -> AsyncIterator[asyncio.Task[None]]:
        """One that runs, and has joined if it can."""
        ranks = Ranks(os.environ, (sys.executable, str(Path(__file__).with_name("fake_ranks.py")), str(self.folder)))
        peer = Peer(("127.0.0.1", self.settings.port), key, facts, ranks, _Files(self))
        running = asyncio.create_task(peer.run())
        before = self.nodes.joined
        await eventually(lambda: self.nodes.joined > before or running.done())
        try:
            yield running
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    def orders(self) -> list[dict[str, Any]]:
        """What ranks were started, in that order."""
        return [json.loads(file.read_text()) for file in sorted(self.folder.glob("*.json"), key=os.path.getmtime)]

    async def begun(self, count: int = 1) -> dict[str, Any]:
        found: list[dict[str, Any]] = await eventually(self.orders, lambda orders: len(orders) >= count)
        return found[-1]


class _Files(Files):
    def __init__(self, rig: Rig) -> None:
        super().__init__()
        self._rig = rig

    async def digest(self, folder: str) -> str:
        return await super().digest(str(self._rig.reads_instead or folder))


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path)
    async with rig.nodes.listening():
        yield rig


async def test_a_model_starts_on_all_of_its_nodes_and_ends_on_all(rig: Rig) -> None:
    async with rig.node():
        engine = await rig.start(rig.model())
        there = await rig.begun()
        own = rig.asked[0].engine
        assert own is not None
        assert (own.args["node_rank"], there["node_rank"]) == (0, 1)
        assert own.args["master_addr"] == "127.0.0.1"
        assert there["key"] is None, "the ranks need no key"
        assert [(each["name"], each["model"]) for each in rig.nodes.report()] == [("other", "spread")]
        await engine.shutdown()
        assert not psutil.pid_exists(there["pid"])
        assert rig.nodes.free == 1


async def test_a_model_of_one_machine_takes_no_node(rig: Rig) -> None:
    engine = await rig.start(rig.model(nnodes=1))
    assert isinstance(engine, FakeEngine)


async def test_ranks_that_die_make_the_engine_dead_and_the_next_one_starts(rig: Rig) -> None:
    async with rig.node():
        engine = await rig.start(rig.model())
        psutil.Process((await rig.begun())["pid"]).kill()
        await eventually(lambda: engine.dead)
        await engine.shutdown()
        again = await rig.start(rig.model())
        await rig.begun(2)
        assert not again.dead
        await again.shutdown()


async def test_a_node_that_is_lost_makes_the_engine_dead_until_it_is_back(rig: Rig) -> None:
    async with rig.node() as node:
        engine = await rig.start(rig.model())
        pid = (await rig.begun())["pid"]
        node.cancel()
        await eventually(lambda: engine.dead)
        await engine.shutdown()
        await eventually(lambda: not psutil.pid_exists(pid))
    with pytest.raises(EngineStartFailed, match=r"needs 1 other nodes and 0 are there after 0.2 s \(nodes.wait_s\)"):
        await rig.start(rig.model())
    async with rig.node():
        back = await rig.start(rig.model())
        await back.shutdown()


async def test_a_node_joins_again_when_the_head_is_back_and_leaves_nothing_behind(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    async with AsyncExitStack() as stack:
        async with rig.nodes.listening():
            await stack.enter_async_context(rig.node())
            await rig.start(rig.model())
            pid = (await rig.begun())["pid"]
        await eventually(lambda: not psutil.pid_exists(pid))
        another = Nodes(rig.settings, EngineSettings(args={"tensor_parallel_size": 2}), HERE)
        async with another.listening():
            await eventually(lambda: another.free, lambda free: free == 1)


async def test_what_fails_on_a_node_ends_the_start(rig: Rig) -> None:
    rig.may_start.clear()
    async with rig.node():
        with pytest.raises(EngineStartFailed, match=r"on the node other .* ended with 3"):
            await rig.start(rig.model("fails"))
        assert rig.nodes.free == 1, "the node can have the next order"


async def test_the_start_waits_for_nodes_that_are_missing(tmp_path: Path) -> None:
    rig = Rig(tmp_path, wait_s=3600)
    async with rig.nodes.listening():
        starting = asyncio.ensure_future(rig.start(rig.model()))
        async with rig.node():
            engine = await starting
            await engine.shutdown()


async def test_other_files_on_a_node_are_refused(rig: Rig) -> None:
    model = rig.model()
    async with rig.node():
        rig.reads_instead = EARLY
        with pytest.raises(EngineStartFailed, match="has other files on the node other"):
            await rig.start(model)
        rig.reads_instead = rig.folder / "nowhere"
        with pytest.raises(EngineStartFailed, match=r"on the node other .*There is no folder"):
            await rig.start(model)
        assert rig.asked == []
        assert rig.nodes.free == 1


async def test_a_switch_in_place_compares_files_too(rig: Rig) -> None:
    async with rig.node():
        engine = await rig.start(rig.model())
        await engine.reload(rig.model("next", EARLY))
        with pytest.raises(EngineReloadFailed, match="pushed weights are on the head alone"):
            await engine.reload(rig.model("next"), rig.folder / "weights")
        rig.reads_instead = FINAL
        with pytest.raises(EngineReloadFailed, match="has other files on the node other"):
            await engine.reload(rig.model("next"))
        assert "has other files" in str(await engine.stage(rig.model("next"), None))
        await engine.shutdown()


async def test_more_ranks_than_a_node_has_devices(rig: Rig) -> None:
    async with rig.node(replace(FACTS, devices=0)):
        with pytest.raises(EngineStartFailed, match="takes 1 devices on each node, and there are 0"):
            await rig.start(rig.model())


@pytest.mark.parametrize(
    ("facts", "key", "why"),
    [
        (replace(FACTS, vllm="0.33.0"), KEY, "vLLM is 0.33.0 there and 0.32.0 on the head"),
        (replace(FACTS, stepserve="0.2.0"), KEY, "Stepserve is 0.2.0 there"),
        (replace(FACTS, build="cuda"), KEY, "vLLM's build is cuda there and cpu on the head"),
        (FACTS, "another key", "nodes.key .* is not the same on both machines"),
    ],
)
async def test_who_cannot_join_is_told_why(rig: Rig, facts: Facts, key: str, why: str) -> None:
    async with rig.node(facts, key) as node:
        with pytest.raises(NodeRefused, match=why):
            await node
    assert rig.nodes.joined == 0


async def test_who_says_nothing_sensible_does_not_join(rig: Rig) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", rig.settings.port)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    async with rig.node():
        assert rig.nodes.joined == 1
    writer.close()


async def test_a_port_that_is_taken(rig: Rig) -> None:
    with pytest.raises(NodesRefused, match=rf"nodes cannot join at 127.0.0.1:{rig.settings.port} .*set nodes.port"):
        async with Nodes(rig.settings, EngineSettings(), HERE).listening():
            pass


async def test_room_counts_nodes(rig: Rig) -> None:
    """A node computes for one model at a time: a second engine needs another node, or the first one's end."""
    memory = NodesMemory(_Enough(), rig.nodes)
    model = rig.model()
    assert memory.shortage(model) == "it needs 1 other nodes, and 0 of the 0 that have joined are free"
    assert memory.shortage(rig.model(nnodes=1)) is None
    async with rig.node():
        assert (memory.shortage(model), memory.more(model)) == (None, 1)
        engine = await rig.start(model)
        slot = Slot(model, engine, 1.0)
        assert memory.shortage(model) == "it needs 1 other nodes, and 0 of the 1 that have joined are free"
        assert memory.shortage(model, [slot]) is None
        assert memory.leavers(model, []) is None
        assert memory.leavers(model, [slot]) == [slot]
        assert memory.leavers(rig.model(nnodes=1), [slot]) == []
        await engine.shutdown()


class _Enough(Memory):
    async def watch(self) -> None: ...

    async def study(self, model: ModelRef) -> None: ...

    def shortage(self, model: ModelRef, gone: object = ()) -> str | None:
        return None

    def leavers(self, model: ModelRef, slots: object, gone: object = ()) -> list[Slot] | None:
        return []

    def more(self, model: ModelRef) -> int:
        return 9
