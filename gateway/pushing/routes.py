"""PUT and GET /models/{id}/weights: a push of tensors into the active model, and what it consists of; and the pieces of
an update in phases.
"""

from dataclasses import dataclass
from typing import Any, Protocol

from gateway.errors import GatewayError, InvalidField
from gateway.http.asgi import ClientDisconnected, Message, Receive, Scope, Send, send_json
from gateway.http.tracked_send import tracked
from gateway.pushing.options import PushOptions
from gateway.pushing.persist import Persisting
from gateway.pushing.pusher import Outcome, Pusher, base_of
from gateway.request.context import RequestContext
from stepserve.delta import MEDIA_TYPE

Json = dict[str, Any]

_DRAINED_BYTES = 128 * 1024 * 1024


class Pieces(Protocol):
    """Who takes the pieces of an update; `gateway.pushing.trainer_routes.TrainerRoutes` is it."""

    async def update(self, scope: Scope, receive: Receive, send: Send) -> None: ...


@dataclass(slots=True)
class WeightsRoutes:
    pusher: Pusher
    persisting: Persisting
    trainers: Pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response, body = tracked(send, scope), _Body(receive)
        params = RequestContext.of(scope).match.params
        try:
            if "model_id" not in params:
                await self.trainers.update(scope, body.receive, response)
            elif scope["method"] == "PUT":
                await self._push(params["model_id"], scope, body, response)
            else:
                await send_json(response, 200, await self._shown(params["model_id"]))
        except GatewayError as error:
            await body.drain()
            await response.fail(error)
        except ClientDisconnected:
            return

    async def _push(self, name: str, scope: Scope, body: "_Body", send: Send) -> None:
        """Raises whatever refuses the push before anything was changed."""
        options = PushOptions.of(scope["query_string"])
        _check_type(scope, options)
        outcome = await self.pusher.push(name, options, scope, body.receive)
        note(scope, outcome)
        await send_json(send, *told(outcome, self.persisting))

    async def _shown(self, name: str) -> Json:
        slot = self.pusher.target(name)
        expected = await self.pusher.expected(slot)
        return {
            "id": slot.model.id,
            "version": slot.version.number,
            "weight_version": slot.version.label,
            "digest": slot.model.digest,
            "delta_base": base_of(slot),
            "pushing": self.pusher.is_busy,
            "bytes": expected.bytes,
            "tensors": [
                {"name": each.name, "dtype": each.dtype, "shape": list(each.shape)}
                for each in expected.tensors.values()
            ],
        }


def note(scope: Scope, outcome: Outcome) -> None:
    """For the trace that the trainer is in."""
    pushed = outcome.pushed
    facts = RequestContext.of(scope).facts
    facts |= {
        "stepserve.weights.version": outcome.request.version.number,
        "stepserve.weights.received_bytes": outcome.received_bytes,
        "stepserve.weights.received_ms": outcome.received_ms,
        "stepserve.weights.checked_ms": outcome.checked_ms,
        "stepserve.weights.held_ms": pushed.held_ms,
        "stepserve.weights.paused_ms": pushed.paused_ms,
    }
    if pushed.proof is not None:
        facts["stepserve.weights.proof"] = pushed.proof.kind
        facts["stepserve.weights.proved"] = pushed.proof.passed


def told(outcome: Outcome, persisting: Persisting) -> tuple[int, Json]:
    """The status and the body of the answer; what is to be kept on disk is begun with."""
    error = outcome.pushed.error
    if error is not None:
        if outcome.weights is not None:
            outcome.weights.close()
        return error.status, _failed(outcome, error)
    persisted_as = persisting.begin(outcome) if outcome.weights is not None else None
    return 200, _pushed(outcome) | {"persisted_as": persisted_as}


def _failed(outcome: Outcome, error: GatewayError) -> Json:
    slot, proof = outcome.request.slot, outcome.pushed.proof
    return {
        "detail": str(error),
        "code": error.code,
        "id": outcome.request.model.id,
        "rolled_back_to": slot.version.number if outcome.pushed.restored else None,
        "paused_ms": outcome.pushed.paused_ms,
        "proof": proof.model_dump() if proof is not None else None,
    } | _gateways(outcome)


def _pushed(outcome: Outcome) -> Json:
    request, pushed = outcome.request, outcome.pushed
    checked = request.weights.checked
    return {
        "status": "pushed",
        "id": request.model.id,
        "version": request.version.number,
        "weight_version": request.version.label,
        "digest": request.model.digest,
        "bytes": checked.bytes if checked is not None else 0,
        "changed": request.changed,
        "tensors": request.tensors,
        "base": outcome.base,
        "received_bytes": outcome.received_bytes,
        "received_ms": outcome.received_ms,
        "checked_ms": outcome.checked_ms,
        "paused_ms": pushed.paused_ms,
        "held_ms": pushed.held_ms,
        "in_flight": pushed.in_flight,
        "proof": pushed.proof.model_dump() if pushed.proof is not None else None,
    } | _gateways(outcome)


def _gateways(outcome: Outcome) -> Json:
    """On a fleet alone."""
    gateways = outcome.pushed.gateways
    return {"gateways": [each.model_dump() for each in gateways]} if gateways else {}


def _check_type(scope: Scope, options: PushOptions) -> None:
    """A delta has to say twice that it is one. Raises InvalidField."""
    kind: bytes = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    is_delta = kind.partition(b";")[0].strip().lower() == MEDIA_TYPE.encode()
    if is_delta != (options.base is not None):
        needs = "must name the digest that this delta is for" if is_delta else f"is for a body of the type {MEDIA_TYPE}"
        error = InvalidField("base", needs)
        error.status = 422
        raise error


class _Body:
    """A client that still sends would not read why it is refused: what nobody has begun to read is read, bounded."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._begun = False

    async def receive(self) -> Message:
        self._begun = True
        return await self._receive()

    async def drain(self) -> None:
        length = 0
        while not self._begun and length <= _DRAINED_BYTES:
            message = await self._receive()
            length += len(message.get("body", b""))
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                return
