"""The gateway process. Its port takes connections at once; they are answered when vLLM is imported, `loading` until
control names a model.
"""

import asyncio
import contextlib
import importlib
import logging
import os
import signal
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import setproctitle
import uvicorn
import uvloop
from prometheus_client import disable_created_metrics

from gateway.access.rates import StoreRefused
from gateway.app import Gateway, create_gateway
from gateway.dialects.installed import DialectRefused
from gateway.engine import fork_server
from gateway.engine.installed import VllmRefused, check_version
from gateway.engine.patches import environment, registry
from gateway.errors import EngineArgumentRefused, JoinRefused
from gateway.filtering.installed import FilterRefused
from gateway.fleet.member import Member
from gateway.http import tracing
from gateway.http.asgi import App
from gateway.http.connection import guarded
from gateway.http.early_port import EarlyPort
from gateway.http.listener import PublicListener
from gateway.nodes.head import Nodes, NodesRefused, Software, check_nodes, environment_of
from gateway.serving.cards import check_devices
from gateway.serving.slot import Engine
from stepserve import logs
from stepserve.child import EXIT_REFUSED
from stepserve.contract import Capabilities, CheckedEngine, CheckEngineRequest, ModelRef, Placement
from stepserve.devices import VISIBLE_VARIABLE, CardDriver
from stepserve.hosts import HostsRefused
from stepserve.installed_vllm import installed_vllm, is_cpu_build
from stepserve.privacy import make_private, reserve_socket
from stepserve.process import allow_many_connections, follow_parent, without_collector
from stepserve.setting_origins import load
from stepserve.setting_sources import SettingsRefused
from stepserve.settings import Settings
from stepserve.unix_http import expect_late_readiness

log = logging.getLogger("gateway")

_OPENED_WITHIN_S = 15.0  # without keys, a member that is to be reached from elsewhere is told so by control
_CLOSING_S = 1  # for what does not hold the exit back: uploads, streams of events, idle connections


class _Server(uvicorn.Server):
    """Two of these run in one loop, so neither may take the process's signals for itself."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def build(settings: Settings, nodes: Nodes) -> Gateway:
    """Starts and imports nothing. What it is given to do with an engine needs vLLM, which is imported by then."""
    layout = settings.layout
    read_cards = None if is_cpu_build() else partial(CardDriver().cards, os.environ.get(VISIBLE_VARIABLE))

    async def start_engine(model: ModelRef, placement: Placement | None) -> Engine:
        module = importlib.import_module("gateway.engine.engine")
        engine: Engine = await module.start(model, settings.engine_to_start, layout.logs / logs.ENGINE_LOG, placement)
        return engine

    def ask_engine() -> Capabilities:
        found: Capabilities = importlib.import_module("gateway.engine.capabilities").capabilities()
        return found

    def check_engine(asked: CheckEngineRequest) -> CheckedEngine:
        wanted = settings.engine_to_start.with_overrides(asked.engine)
        folder = Path(asked.path) if asked.path is not None else None
        try:
            check_nodes(wanted, settings.nodes)
            check_devices(asked.engine, settings.engine, read_cards() if read_cards is not None else [])
            importlib.import_module("gateway.engine.arguments").check(wanted, folder)
        except EngineArgumentRefused as error:
            return CheckedEngine(refusal=str(error))
        return CheckedEngine()

    def diagnose_engine() -> dict[str, Any]:
        torch: dict[str, Any] = importlib.import_module("gateway.engine.diagnosis").torch_build()
        return {"torch": torch, "patches": registry.report(settings.engine.patches), "nodes": nodes.report()}

    return create_gateway(settings, start_engine, ask_engine, check_engine, diagnose_engine, read_cards, nodes)


def import_engine(settings: Settings) -> None:
    """Imports vLLM, forks off what engines are forked from, and has vLLM look at the settings' engine arguments. Blocks
    for seconds.

    Before anything is begun that does not survive a fork. Raises EngineArgumentRefused.
    """
    with without_collector():
        importlib.import_module("gateway.engine.engine")
    if "forked_engines" not in settings.engine.patches.off and not fork_server.for_gpu():
        logs.close()  # a thread of theirs begins with the next line
        fork_server.fork_off()
    logs.take_over_engine_log(settings)
    engine = settings.engine
    check_nodes(engine, settings.nodes)
    if engine.args or engine.tool_call_parser is not None or engine.reasoning_parser is not None:
        importlib.import_module("gateway.engine.arguments").check(settings.engine_to_start)


async def serve(settings: Settings, gateway: Gateway, nodes: Nodes, early: EarlyPort, hung_up: list[int]) -> None:
    """Serves until SIGTERM or SIGINT, or until the pool's writer task has crashed. `hung_up`: the SIGHUP that came."""
    layout = settings.layout
    reserve_socket(layout.gateway_socket)
    public = PublicListener(
        lambda host: _server(gateway.public, settings, host=host, port=settings.port),
        settings.host,
        reachable_now=gateway.keyring.lets_others_in,
        reachable=gateway.key_sync.others_may,
        early=early,
    )
    private = _server(gateway.private, settings, uds=str(layout.gateway_socket))
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    expect_late_readiness(loop)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    reloads: set[asyncio.Task[None]] = set()

    def reload() -> None:
        reloads.add(loop.create_task(gateway.configuration.hang_up()))

    loop.add_signal_handler(signal.SIGHUP, reload)
    if hung_up:
        reload()
    allow_many_connections()

    async with nodes.listening(), gateway.running() as writer:
        servers = [asyncio.create_task(server.serve()) for server in (public, private)]
        stopped = asyncio.create_task(stop.wait())
        member = asyncio.create_task(_membership(gateway.member, public), name="membership")
        await asyncio.wait([*servers, stopped, writer, member], return_when=asyncio.FIRST_COMPLETED)
        member.cancel()  # first of all, so that control sends nobody here any more
        left = (await asyncio.gather(member, return_exceptions=True))[0]
        if stopped.done():
            await gateway.drain.run(settings.drain_timeout_s)
        log.info("stopping")
        public.stop()
        private.should_exit = True
        await asyncio.gather(*servers)
        stopped.cancel()
        if isinstance(left, Exception):
            raise left


async def _membership(member: Member | None, public: PublicListener) -> None:
    """Of a fleet, where this gateway is to be a member of one; else it waits for the end."""
    if member is None:
        await asyncio.Event().wait()
        return
    await member.membership.run(lambda: public.opened(_OPENED_WITHIN_S))


def _server(app: App, settings: Settings, *, host: str = "", port: int = 0, uds: str | None = None) -> _Server:
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        proxy_headers=False,  # gateway.access.proxies takes them, from the settings' proxies alone
        lifespan="off",
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=_CLOSING_S,
        host=host,
        port=port,
        uds=uds,
        http="httptools" if uds else guarded(settings.limits),
        ws="none",
        ssl_certfile=None if uds else settings.tls.cert_file,
        ssl_keyfile=None if uds else settings.tls.key_file,
    )
    return _Server(config)


def main() -> None:
    parent_pid = os.getppid()
    hung_up: list[int] = []
    signal.signal(signal.SIGHUP, lambda number, _: hung_up.append(number))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))  # until the event loop takes them, nothing is to be finished
    # Series of when a counter began would double the counters and say little.
    disable_created_metrics()  # type: ignore[no-untyped-call]  # prometheus_client gives this function no types
    make_private()
    setproctitle.setproctitle("stepserve: gateway")
    settings = load()
    if settings.fleet.id is not None:
        setproctitle.setproctitle(f"stepserve: gateway {settings.fleet.id}")
    settings.layout.create()
    logs.configure("gateway", settings)
    terminal = os.fdopen(os.dup(sys.stderr.fileno()), "w")  # for a refusal: standard error is a file from here on
    logs.redirect_output(settings.layout.logs / logs.ENGINE_LOG)
    environment.set_defaults(settings.max_sequences_per_request)
    environment.keep_sockets_in(settings.layout.engine_sockets)
    tracing.prepare(settings.telemetry)
    code = 1
    try:
        check_version(installed_vllm())
        os.environ.update(environment_of(settings.nodes))
        nodes = Nodes(settings.nodes, settings.engine_to_start, Software.here())
        gateway = build(settings, nodes)
        early = EarlyPort.of(settings.host, settings.port, reachable=gateway.keyring.lets_others_in)
        import_engine(settings)
        follow_parent(signal.SIGTERM, parent_pid)
        # The runner is not closed: that would wait for a thread that may still be starting an engine, which outlasts
        # the patience of whoever stops us. The engine's processes end with this one.
        asyncio.Runner(loop_factory=uvloop.new_event_loop).run(serve(settings, gateway, nodes, early, hung_up))
        code = 0
    except (
        DialectRefused,
        FilterRefused,
        EngineArgumentRefused,
        HostsRefused,
        JoinRefused,
        NodesRefused,
        SettingsRefused,
        StoreRefused,
        VllmRefused,
    ) as error:
        code = EXIT_REFUSED
        log.critical("the gateway cannot start: %s", error)
        terminal.write(f"stepserve gateway cannot start: {error}\n")
        terminal.flush()
    except BaseException:
        log.exception("the gateway crashed")
        raise
    finally:
        logs.close()
        sys.stdout.flush()
        os._exit(code)
