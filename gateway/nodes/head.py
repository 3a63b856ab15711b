"""The head: nodes join it, and a model that is spread over several machines starts on all of them or on none."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self, cast

from gateway.errors import EngineArgumentRefused, EngineStartFailed
from gateway.nodes.files import Files, FilesRefused
from gateway.nodes.link import LONGEST_LINE_BYTES, Link, LinkLost, has_key, head_proof, new_nonce
from gateway.nodes.messages import Challenge, Hello, Start, Unwelcome, Welcome
from gateway.nodes.node import Node, Order
from gateway.nodes.spread_engine import SpreadEngine
from gateway.serving.slot import Engine, StartEngine
from stepserve import __version__
from stepserve.contract import ModelRef
from stepserve.engine_arguments import nodes_of
from stepserve.installed_vllm import installed_vllm, is_cpu_build
from stepserve.node_settings import NodeSettings, network_environment
from stepserve.settings import EngineSettings

log = logging.getLogger(__name__)

_JOINS_WITHIN_S = 10.0
_ENDS_WITHIN_S = 15.0

NO_ADDRESS = "engine.args.nnodes: set nodes.address and nodes.key, so that other nodes can join this machine"


class NodesRefused(Exception):
    """Nodes cannot join; the text is a sentence."""


@dataclass(frozen=True, slots=True)
class Software:
    """What has to be the same on every node."""

    stepserve: str
    vllm: str
    build: str

    @classmethod
    def here(cls) -> Self:
        return cls(__version__, installed_vllm() or "", "cpu" if is_cpu_build() else "cuda")


def check_nodes(engine: EngineSettings, settings: NodeSettings) -> None:
    """Raises EngineArgumentRefused for a model that is to be spread over nodes where none can join."""
    if nodes_of(engine.args) > 1 and settings.address is None:
        raise EngineArgumentRefused(NO_ADDRESS)


def environment_of(settings: NodeSettings) -> dict[str, str]:
    """What engines have to be told of the network. Raises NodesRefused."""
    if settings.address is None:
        return {}
    try:
        return network_environment(settings.address, settings.interface)
    except ValueError as error:
        raise NodesRefused(f"nodes.address: {error}") from error


class Nodes:
    """Only the gateway's event loop calls this."""

    def __init__(self, settings: NodeSettings, engine: EngineSettings, software: Software) -> None:
        self._settings = settings
        self._engine = engine
        self._software = software
        self._nodes: list[Node] = []
        self._moved = asyncio.Condition()
        self._files = Files()

    @property
    def joined(self) -> int:
        return len(self._nodes)

    @property
    def free(self) -> int:
        return sum(node.is_free for node in self._nodes)

    def others(self, model: ModelRef) -> int:
        """How many machines beside this one the model is spread over."""
        return nodes_of(self._engine.with_overrides(model.engine).args) - 1

    def report(self) -> list[dict[str, Any]]:
        """Those that have joined, and what they compute."""
        return [
            {
                "name": node.hello.name,
                "address": node.hello.address,
                "devices": node.hello.devices,
                "model": node.order.model_id if node.order is not None else None,
            }
            for node in tuple(self._nodes)  # whoever asks is in a thread
        ]

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Takes nodes until it is left; none where the settings name no address. Raises NodesRefused."""
        address = self._settings.address
        if address is None:
            yield
            return
        try:
            server = await asyncio.start_server(self._joins, address, self._settings.port, limit=LONGEST_LINE_BYTES)
        except OSError as error:
            raise NodesRefused(
                f"nodes cannot join at {address}:{self._settings.port} ({error.strerror}): set nodes.port"
            ) from error
        log.info("nodes can join at %s:%d", address, self._settings.port)
        try:
            yield
        finally:
            server.close()
            for node in list(self._nodes):
                node.lose("the head ends")

    async def _joins(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = Link(reader, writer)
        try:
            async with asyncio.timeout(_JOINS_WITHIN_S):
                hello = await self._greeted(link)
        except (LinkLost, TimeoutError) as error:
            log.warning("a machine at %s did not join: %s", link.peer, str(error) or "it was too slow")
            link.close()
            return
        if hello is None:
            await link.flush()
            link.close()
            return
        await self._member(Node(hello, link))

    async def _greeted(self, link: Link) -> Hello | None:
        """None where it was sent away. Raises LinkLost."""
        challenge = Challenge(nonce=new_nonce())
        link.send(challenge)
        hello = await link.expect(Hello)
        refusal = self._refusal(hello, known=has_key(self._settings.secret, challenge, hello))
        if refusal is not None:
            log.warning("the node %s (%s) cannot join: %s", hello.name, link.peer, refusal)
            link.send(Unwelcome(reason=refusal))
            return None
        link.send(Welcome(proof=head_proof(self._settings.secret, challenge, hello.nonce)))
        return hello

    def _refusal(self, hello: Hello, *, known: bool) -> str | None:
        if not known:
            return "nodes.key (INFERENCE_NODES__KEY) is not the same on both machines"
        for name, here, there in (
            ("Stepserve", self._software.stepserve, hello.stepserve),
            ("vLLM", self._software.vllm, hello.vllm),
            ("vLLM's build", self._software.build, hello.build),
        ):
            if here != there:
                return f"{name} is {there} there and {here} on the head: install the same on every node"
        return None

    async def _member(self, node: Node) -> None:
        for former in [each for each in self._nodes if each.hello.boot_id == node.hello.boot_id]:
            former.lose("it has joined again")
        self._nodes.append(node)
        log.info("the node %s has joined: %d devices", node.name, node.hello.devices)
        beats = asyncio.create_task(node.link.beat())
        try:
            async with self._moved:
                self._moved.notify_all()
            await node.listen()
        finally:
            beats.cancel()
            node.lose("its connection is given up")
            self._nodes.remove(node)
            log.warning("the node %s is lost: %s", node.name, node.lost)

    def starts(self, start_engine: StartEngine) -> StartEngine:
        """Engines by `start_engine`; one that is spread over machines has its other ranks on nodes that have joined.
        Raises EngineStartFailed where there are too few, or one refuses or fails.
        """

        async def start(model: ModelRef) -> Engine:
            others = self.others(model)
            if others == 0:
                return await start_engine(model)
            order = await self._order(model, others)
            try:
                engine = await self._together(order, model, start_engine)
            except BaseException:
                await self.release(order)
                raise
            return cast("Engine", SpreadEngine(engine, order, self))

        return start

    async def differing(self, order: Order, path: str) -> str | None:
        """Why the files in that folder are not the same on all of the order's nodes; None: they are. Reads them whole
        the first time.
        """
        try:
            mine, theirs = await asyncio.gather(
                self._files.digest(path), asyncio.gather(*(node.check(path) for node in order.nodes))
            )
        except FilesRefused as error:
            return str(error)
        except LinkLost as error:
            return f"a node is lost: {error}"
        for node, there in zip(order.nodes, theirs, strict=True):
            if there.reason is not None:
                return f"on the node {node.name}: {there.reason}"
            if there.digest != mine:
                return f"{path} has other files on the node {node.name} ({there.digest}) than here ({mine})"
        return None

    async def release(self, order: Order) -> None:
        """Its nodes are free for another one once their ranks are gone."""

        async def end(node: Node) -> None:
            try:
                async with asyncio.timeout(_ENDS_WITHIN_S):
                    await node.end(order)
            except LinkLost:
                pass
            except TimeoutError:
                node.lose(f"it did not end its ranks within {_ENDS_WITHIN_S:.0f} s")
            finally:
                node.order = None

        await asyncio.gather(*(end(node) for node in order.nodes))
        async with self._moved:
            self._moved.notify_all()

    async def _order(self, model: ModelRef, others: int) -> Order:
        """On nodes that are free, once there are enough. Raises EngineStartFailed."""
        settings = self._settings
        if settings.address is None:
            raise EngineStartFailed(NO_ADDRESS)
        try:
            async with asyncio.timeout(settings.wait_s), self._moved:
                await self._moved.wait_for(lambda: self.free >= others)
                order = Order(model.id, [node for node in self._nodes if node.is_free][:others])
                for node in order.nodes:
                    node.order = order
                return order
        except TimeoutError:
            raise EngineStartFailed(
                f"`{model.id}` needs {others} other nodes and {self.free} are there after {settings.wait_s:g} s"
                f" (nodes.wait_s): run `stepserve node --join {settings.address}:{settings.port}` on each"
            ) from None

    async def _together(self, order: Order, model: ModelRef, start_engine: StartEngine) -> Engine:
        """Raises EngineStartFailed, also as soon as one of the nodes fails."""
        if (reason := await self.differing(order, model.path)) is not None:
            raise EngineStartFailed(f"`{model.id}` cannot be spread over nodes: {reason}")
        address = self._settings.address
        assert address is not None
        head = Start(
            number=order.number,
            model=model,
            settings=self._engine.model_dump(mode="json"),
            node_rank=0,
            master_address=address,
            master_port=_free_port(address),
        )
        try:
            begun = await asyncio.gather(
                *(node.start(head.model_copy(update={"node_rank": rank})) for rank, node in enumerate(order.nodes, 1))
            )
        except LinkLost as error:
            raise EngineStartFailed(f"`{model.id}` did not start: a node is lost: {error}") from error
        for node, started in zip(order.nodes, begun, strict=True):
            if started.reason is not None:
                raise EngineStartFailed(f"`{model.id}` cannot start on the node {node.name}: {started.reason}")
        return await _unless_failed(order, asyncio.create_task(_awaited(start_engine(head.model_there))))


async def _awaited(engine: Awaitable[Engine]) -> Engine:
    return await engine


async def _unless_failed(order: Order, starting: asyncio.Task[Engine]) -> Engine:
    """What `starting` makes, which is given up when the order fails. Raises EngineStartFailed and what it raises."""
    failing = asyncio.create_task(order.failed())
    try:
        await asyncio.wait({starting, failing}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            return starting.result()
        raise EngineStartFailed(f"`{order.model_id}` did not start: {failing.result()}")
    finally:
        failing.cancel()
        if not starting.done():
            starting.cancel()
            await asyncio.wait({starting})
            if not starting.cancelled() and starting.exception() is None:
                await starting.result().shutdown()


def _free_port(address: str) -> int:
    """Where the ranks of one model meet. Another program may take it before they do: the start fails then."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port
