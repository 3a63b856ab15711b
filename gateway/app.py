"""The gateway's composition root: builds every part and says which one takes a request."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Router as StarletteRouter

from gateway.access.allowance import KeyQuotas
from gateway.access.browser import BrowserGuard
from gateway.access.deadlines import Deadlines
from gateway.access.door import AuthMiddleware
from gateway.access.keyring import Keyring
from gateway.access.proxies import TrustedProxies
from gateway.access.rates import Rates
from gateway.access.trainers import Trainers
from gateway.access.usage import UsageTotals
from gateway.balancing.parts import Balancing, balancing_of
from gateway.dialects.installed import installed_routes
from gateway.dialects.router import ProtocolAdapters
from gateway.dialects.served import Served
from gateway.edge.configuration import Configuration
from gateway.edge.drain import Drain
from gateway.edge.observation import RequestLogMiddleware
from gateway.edge.openapi import describe
from gateway.engine.process.turns import one_at_a_time
from gateway.errors import GatewayError, MethodNotAllowed, NotFound
from gateway.filtering.app import Filtered
from gateway.filtering.installed import filters_of
from gateway.fleet.member import Member, member_of
from gateway.fleet.member_door import MemberDoor
from gateway.fleet.membership import control_client
from gateway.http.asgi import App, Receive, Scope, Send
from gateway.http.body_to_file import BodyToFile
from gateway.http.tracing import Tracer, tracer_of
from gateway.http.tracked_send import tracked
from gateway.inference.dispatch import Dispatch
from gateway.inference.internal import Inference
from gateway.inference.response_cache import ResponseCache
from gateway.inference.routes import create_routes
from gateway.nodes.head import Nodes, Software
from gateway.nodes.memory import NodesMemory
from gateway.private_api import create_private_app
from gateway.pushing.over_fleet import FleetPushes
from gateway.pushing.persist import Persisting
from gateway.pushing.pusher import Pusher
from gateway.pushing.routes import WeightsRoutes
from gateway.pushing.taking import VersionTaker
from gateway.pushing.trainer_routes import TrainerRoutes
from gateway.pushing.updates import Updates
from gateway.request.bounds import RequestBounds
from gateway.request.context import RequestContext
from gateway.responses.stored import PATH as RESPONSES
from gateway.responses.stored import StoredResponses
from gateway.responses.writer import ResponseWriter
from gateway.serving.admission import Admission, Bounds
from gateway.serving.batch_share import BatchShare
from gateway.serving.canary.canary import Canary
from gateway.serving.canary.losses import Scorer
from gateway.serving.canary.shadow import Shadows
from gateway.serving.cards import Cards
from gateway.serving.gate import Gate
from gateway.serving.memory import HostMemory, Memory
from gateway.serving.naming import Naming
from gateway.serving.pool import Pool
from gateway.serving.preload import Preload
from gateway.serving.router import Router
from gateway.serving.self_check import SelfCheck
from gateway.serving.slot import StartEngine, StartPlaced
from gateway.serving.watchdog import Watchdog
from gateway.serving.weights.versions import Versions
from gateway.sidecar.control_link import ControlProxy
from gateway.sidecar.directory import ControlDirectory, NoDirectory
from gateway.sidecar.key_link import KeySync, to_sidecar
from gateway.sidecar.upload_link import UploadLink
from gateway.status.exposition import Exposition
from gateway.status.gpu import Nvml
from gateway.status.information import Information
from gateway.status.model_cards import ModelCards
from gateway.status.usage import usage
from gateway.traffic.parts import Traffic, traffic_of
from gateway.upstream.app import UpstreamApp
from stepserve import hosts
from stepserve.access import CONTROL_SYNC_PATH
from stepserve.alias_book import AliasBook
from stepserve.contract import Capabilities, CheckedEngine, CheckEngineRequest
from stepserve.fleet import FLEET_KEYS_PATH
from stepserve.heartbeat import beat
from stepserve.loop_lag import LoopLag
from stepserve.placement import Device
from stepserve.route_table import Owner, Row
from stepserve.settings import Settings


@dataclass(frozen=True, slots=True)
class PublicApp:
    """The one public port: hands each request to the owner of its route. `own` answers the gateway's plain GETs."""

    dispatch: App
    responses: StoredResponses
    control: ControlProxy
    uploads: UploadLink
    weights: WeightsRoutes
    adapters: ProtocolAdapters
    own: App
    upstream: App
    traffic: Traffic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.own(scope, receive, send)
            return
        match = RequestContext.of(scope).match
        method, path = scope["method"], scope["path"]
        try:
            if match.row is None:
                raise MethodNotAllowed(method, path, match.allow) if match.allow else NotFound(method, path)
            if match.row.owner == "control":
                await self.responses.settle(match.params)
                await self.traffic.settle(match.label)
            await self._owner_of(path, match.row)(scope, receive, send)
        except GatewayError as error:
            await tracked(send, scope).fail(error)

    def _owner_of(self, path: str, row: Row) -> App:
        by_owner: dict[Owner, App] = {"control": self.control, "upstream": self.upstream, "slot": self.dispatch}
        if path == RESPONSES:
            return self.responses
        if row.owner != "gateway":
            return by_owner[row.owner]
        if row.body == "weights":
            return self.weights
        if row.body == "upload":
            return self.uploads
        return self.adapters if self.adapters.has(path) else self.own


@dataclass(frozen=True, slots=True)
class Gateway:
    """Both apps of one gateway process, over one pool."""

    pool: Pool
    control: ControlProxy
    public: App
    private: Starlette
    tracer: Tracer | None
    keyring: Keyring
    key_sync: KeySync
    deadlines: Deadlines
    drain: Drain
    upstream: UpstreamApp
    balancing: Balancing | None
    response_writer: ResponseWriter
    traffic: Traffic
    rates: Rates
    lag: LoopLag
    self_check: SelfCheck
    preload: Preload
    configuration: Configuration
    member: Member | None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        """Runs the pool's writer task, which it yields; leaving ends the engine. Raises what made that task crash."""
        writer = asyncio.create_task(self.pool.run(), name="pool")
        helpers = [
            asyncio.create_task(self.key_sync.run(), name="keys"),
            asyncio.create_task(self.deadlines.run(), name="deadlines"),
            asyncio.create_task(self.upstream.run(), name="upstream"),
            asyncio.create_task(self.lag.run(), name="loop lag"),
            asyncio.create_task(beat(), name="heartbeat"),
            asyncio.create_task(self.self_check.run(), name="self-check"),
            asyncio.create_task(self.preload.run(), name="preload"),
            asyncio.create_task(self.response_writer.run(), name="response writer"),
            asyncio.create_task(self.traffic.run(), name="traffic writer"),
        ]
        if self.balancing is not None:
            helpers.append(asyncio.create_task(self.balancing.run(), name="fleet view"))
        try:
            yield writer
        finally:
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
            writer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writer
            await self.control.close()
            if self.member is not None:
                await self.member.close()
            await self.rates.close()
            if self.tracer is not None:
                await asyncio.to_thread(self.tracer.close)


def create_gateway(
    settings: Settings,
    start_engine: StartPlaced,
    ask_engine: Callable[[], Capabilities],
    check_engine: Callable[[CheckEngineRequest], CheckedEngine],
    diagnose_engine: Callable[[], dict[str, Any]],
    read_cards: Callable[[], Sequence[Device]] | None = None,
    nodes: Nodes | None = None,
) -> Gateway:
    """`ask_engine`, `check_engine` and `diagnose_engine` may block for as long as it takes to import vLLM.

    `read_cards`: those that engines may be on; None: engines compute on the CPU. `nodes`: the other machines that
    models can be spread over.
    """
    start, memory = _engines(settings, start_engine, read_cards, nodes)
    gate, canary = Gate(settings.max_held_requests, settings.hold_timeout_s), Canary()
    pool = Pool(
        gate,
        start,
        settings.engine_restart_max_delay_s,
        memory,
        max_loaded=settings.loaded_models_limit,
        load_wait_s=settings.hold_timeout_s,
        turn_wait_s=settings.longest_turn_wait_s,
        keep_alive_s=settings.model_keep_alive,
        cool_down_s=settings.model_load_cooldown_s,
        watchdog=Watchdog.within(settings.engine.hang_timeout_s),
        versions=Versions(settings.layout.versions),
        tried=lambda: canary.tried,
    )
    self_check = SelfCheck(lambda: pool.serving, settings.self_check_interval_s)
    control = ControlProxy(
        settings.layout.control_socket,
        settings.max_request_bytes,
        max_dataset_bytes=settings.max_dataset_bytes,
        max_file_bytes=settings.max_file_bytes,
        elsewhere=settings.fleet.control,
    )
    member = member_of(settings, pool)
    directory = ControlDirectory(control) if member is None else NoDirectory()
    router = Router(
        gate, pool, directory, settings.load_on_request, settings.max_held_requests, settings.hold_timeout_s
    )
    keyring = Keyring(settings.access, settings.layout.key_cache)
    key_usage = UsageTotals()
    key_sync = _key_sync(settings, keyring, key_usage, pool.snapshot().boot_id)
    preload = Preload(settings.preload, pool, directory, key_sync.control_answers)
    layout, bounds = settings.layout, _request_bounds(settings)
    aliases = AliasBook(settings.aliases, layout.aliases)
    naming = Naming(aliases.by_name, settings.unknown_model)
    served = Served(pool.snapshot, naming)
    installed = installed_routes(served)  # before hosts.json is read: no tier is called as a dialect is
    upstream = UpstreamApp(hosts.read(settings.hosts_file, layout.base), settings.max_request_bytes, bounds)
    cards = ModelCards(pool, directory, naming, settings.load_on_request, upstream.directory)
    configuration = Configuration(settings, aliases, naming, upstream.directory, cards.ids)
    balancing = balancing_of(settings, control, lambda: gate.slot)
    dispatch = Dispatch(
        router,
        settings.max_request_bytes,
        Admission(_bounds(settings)),
        upstream,
        naming,
        bounds,
        settings.engine.structured,
        ResponseCache(settings.response_cache, settings.response_cache_bytes),
        balancing.spread if balancing is not None else None,
        member.membership.id.encode() if member is not None else None,
        canary,
    )
    filters = filters_of(settings.filters)
    traffic = traffic_of(settings, control, filters)

    def through_filters(app: App) -> App:
        return Filtered(app, filters, bounds, settings.max_request_bytes) if filters else app

    slots = through_filters(dispatch)
    answering = traffic.sampled(slots)
    lag = LoopLag()
    exposition = Exposition(control, lag)
    information = Information(
        settings,
        pool,
        control,
        cards,
        Nvml(),
        time.monotonic(),
        exposition,
        diagnose_engine,
        preload,
        member.membership if member is not None else None,
    ).app()
    pusher, persisting, versions = _pushing(settings, pool, control, balancing)
    trainers = TrainerRoutes(Updates(pusher, pool, settings.weights), pusher, persisting)
    adapters = create_routes(settings, answering, served, control, pool, configuration, bounds, installed)
    for route in (*trainers.routes(), traffic.feedback):
        adapters.add(route)
    for route in describe(gate, control, adapters.routes, [*information.routes, *configuration.routes()]):
        adapters.add(route)
    usage.boot_id = pool.snapshot().boot_id
    tracer = tracer_of(settings.telemetry)
    rates = _rates(settings)
    deadlines = Deadlines(settings.limits)
    response_writer = ResponseWriter(control, keeps=settings.fleet.control is None)
    public = PublicApp(
        answering,
        StoredResponses(answering, dispatch, control, response_writer, settings.stored_responses),
        control,
        UploadLink(control, settings.limits.body_timeout_s),
        WeightsRoutes(pusher, persisting, trainers),
        adapters,
        StarletteRouter(routes=[*information.routes, *configuration.routes()]),
        traffic.sampled(through_filters(upstream)),
        traffic,
    )
    at_once = 2 * settings.engine.max_num_seqs  # as many again as are computed, so that the engine never waits
    inference = Inference(dispatch, slots, adapters, BatchShare(at_once, at_once))
    canary.shadows = Shadows(inference.ask, Scorer(router))
    drain = Drain(_authenticated(public, settings, keyring, rates, key_usage, deadlines), deadlines)
    outermost: App = RequestLogMiddleware(drain, settings.logs, tracer)
    private = create_private_app(
        pool,
        router,
        self_check,
        inference,
        usage,
        ask_engine,
        check_engine,
        key_sync,
        key_usage,
        canary,
        versions,
        member.files if member is not None else None,
    )
    if member is not None:
        outermost = MemberDoor(outermost, private, member.membership.token)
    return Gateway(
        pool=pool,
        control=control,
        public=outermost,
        tracer=tracer,
        private=private,
        keyring=keyring,
        key_sync=key_sync,
        deadlines=deadlines,
        drain=drain,
        upstream=upstream,
        balancing=balancing,
        response_writer=response_writer,
        traffic=traffic,
        rates=rates,
        lag=lag,
        self_check=self_check,
        preload=preload,
        configuration=configuration,
        member=member,
    )


def _engines(
    settings: Settings,
    start_engine: StartPlaced,
    read_cards: Callable[[], Sequence[Device]] | None,
    nodes: Nodes | None,
) -> tuple[StartEngine, Memory]:
    """How engines start, and whether there is room for one more."""
    here = HostMemory(settings.engine) if read_cards is None else Cards(settings.engine, read_cards)
    nodes = nodes or Nodes(settings.nodes, settings.engine, Software.here())
    return nodes.starts(one_at_a_time(here.starts(start_engine))), NodesMemory(here, nodes)


def _rates(settings: Settings) -> Rates:
    store_url = settings.limits.store_url
    return Rates(store_url.get_secret_value() if store_url else None)


def _pushing(
    settings: Settings, pool: Pool, control: ControlProxy, balancing: Balancing | None
) -> tuple[Pusher, Persisting, VersionTaker]:
    layout = settings.layout
    pushes = FleetPushes(pool, control, balancing.link, layout) if balancing is not None else None
    bodies = BodyToFile(settings.limits.body_timeout_s, "push", at_once_bytes=512 * 1024)
    pusher = Pusher(pool, bodies, settings.weights.persist_every, head=settings.fleet.control, fleet=pushes)
    return pusher, Persisting(control, layout.models), VersionTaker(pusher, pushes, layout)


def _key_sync(settings: Settings, keyring: Keyring, usage: UsageTotals, source: str) -> KeySync:
    """With the control process of this machine, or with the control plane of the fleet."""
    if settings.fleet.control is not None:
        return KeySync(control_client(settings), FLEET_KEYS_PATH, keyring, usage, source)
    return KeySync(to_sidecar(settings.layout.control_socket), CONTROL_SYNC_PATH, keyring, usage, source)


def _bounds(settings: Settings) -> Bounds:
    limits = settings.limits
    return Bounds(settings.engine.max_num_seqs, limits.max_queued_requests, limits.max_queued_tokens)


def _request_bounds(settings: Settings) -> RequestBounds:
    limits = settings.limits
    return RequestBounds(
        settings.max_sequences_per_request, limits.max_text_chars, limits.max_body_values, limits.max_message_values
    )


def _authenticated(
    app: App, settings: Settings, keyring: Keyring, rates: Rates, usage: UsageTotals, deadlines: Deadlines
) -> App:
    access, limits = settings.access, settings.limits
    origins = frozenset(origin.lower() for origin in access.cors_origins)
    authenticated = AuthMiddleware(
        app=app,
        keyring=keyring,
        quotas=KeyQuotas(rates),
        usage=usage,
        deadlines=deadlines,
        guard=BrowserGuard(origins, frozenset(name.lower() for name in access.host_names)),
        proxies=TrustedProxies(access.trusted_proxies),
        trainers=Trainers(access.trainers),
        max_request_bytes=settings.max_request_bytes,
        body_timeout_s=limits.body_timeout_s,
        bounds=_request_bounds(settings),
    )
    if not access.cors_origins:
        return authenticated
    return CORSMiddleware(
        authenticated,
        allow_origins=access.cors_origins,
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=[
            "x-model-id",
            "x-model-digest",
            "x-model-version",
            "x-model-versions",
            "x-request-id",
            "x-cache",
            "x-stepserve-gateway",
            "retry-after",
        ],
    )
