"""The routes that other hosts answer: everything below `/{tier}/v1/`, and any model's that is not here."""

import time
from collections.abc import Sequence

from gateway.errors import GatewayError, ModelNotFound
from gateway.http.asgi import ClientDisconnected, Receive, Scope, Send, send_json, unless_disconnected
from gateway.http.bounded_body import read_within
from gateway.http.tracked_send import TrackedSend, tracked
from gateway.request.bounds import RequestBounds
from gateway.request.client_fields import check
from gateway.request.context import RequestContext
from gateway.upstream.directory import Directory
from gateway.upstream.relay import Question, Relay
from gateway.upstream.replica import Replica
from gateway.upstream.wire import Wire, hops_of
from stepserve.contract import ACTIVE_ALIAS
from stepserve.hosts import Hosts


class NoSuchTier(GatewayError):
    status = 404
    code = "tier_not_found"


class UpstreamApp:
    """`running` keeps the directory of models up to date."""

    def __init__(
        self,
        hosts: Hosts,
        max_request_bytes: int,
        bounds: RequestBounds | None = None,
        *,
        discover_every_s: float = 30.0,
    ) -> None:
        """Raises HostsRefused when the variable with a key is not set."""
        self._wire = Wire()
        self.directory = Directory(hosts, self._wire, discover_every_s)
        self._relay = Relay(self._wire)
        self._max_request_bytes = max_request_bytes
        self._bounds = bounds or RequestBounds.unbounded()

    def has(self, name: str | None) -> bool:
        """Whether another host can be asked for a model of this name."""
        return bool(self.directory.having(name))

    async def run(self) -> None:
        """Until cancelled."""
        try:
            await self.directory.run()
        finally:
            await self._wire.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A request for one of the table's routes below a tier's path."""
        tier_name = RequestContext.of(scope).match.params["tier"]
        response = tracked(send, scope)
        try:
            replicas = self.directory.tiers.get(tier_name)
            if replicas is None:
                there = ", ".join(self.directory.tiers) or "none; config/hosts.json names them"
                raise NoSuchTier(f"There is no tier `{tier_name}`. Tiers: {there}.")
            await self._below(replicas, scope["path"][len(tier_name) + 4 :], scope, receive, response)
        except GatewayError as error:
            await response.fail(error)
        except ClientDisconnected:
            return

    async def relay(self, name: str, body: bytes, scope: Scope, receive: Receive, send: TrackedSend) -> None:
        """A request on /v1 for a model that another host has. Raises GatewayError, ClientDisconnected."""
        is_tier = name in self.directory.tiers and name not in self.directory.models()
        replicas = self.directory.having(name)
        path = scope["path"].removeprefix("/v1")
        await self._ask(replicas, path, None if is_tier else name, body, scope, receive, send)

    async def _below(
        self, replicas: list[Replica], path: str, scope: Scope, receive: Receive, send: TrackedSend
    ) -> None:
        context = RequestContext.of(scope)
        if scope["method"] in {"GET", "HEAD"}:
            await self._show_models(replicas[0].tier_name, context.match.params.get("name"), send)
            return
        body = (await read_within(self._bounds, context, receive, self._max_request_bytes, path)).raw
        assert context.estimate is not None, "made with the body"
        check(context.estimate, f"/v1{path}")
        name = context.estimate.model
        if name in {None, "", ACTIVE_ALIAS, replicas[0].tier_name}:
            await self._ask(replicas, path, None, body, scope, receive, send)
            return
        having = [each for each in replicas if each.serves(name)]
        if not having:
            raise ModelNotFound(str(name), self._names(replicas[0].tier_name))
        await self._ask(having, path, name, body, scope, receive, send)

    async def _ask(
        self,
        replicas: Sequence[Replica],
        path: str,
        model: str | None,
        body: bytes,
        scope: Scope,
        receive: Receive,
        send: TrackedSend,
    ) -> None:
        question = Question(scope, path, body, model, hops_of(scope))
        await unless_disconnected(self._relay(question, replicas, send), receive)

    async def _show_models(self, tier_name: str, wanted: str | None, send: Send) -> None:
        created = int(time.time())
        models = self.directory.models(tier_name)
        cards = {name: {"id": name, "object": "model", "created": created, "owned_by": tier_name} for name in models}
        if not wanted:
            await send_json(send, 200, {"object": "list", "data": list(cards.values())})
        elif wanted in cards:
            await send_json(send, 200, cards[wanted])
        else:
            raise ModelNotFound(wanted, self._names(tier_name))

    def _names(self, tier_name: str) -> list[str]:
        return [*self.directory.models(tier_name), tier_name, ACTIVE_ALIAS]
