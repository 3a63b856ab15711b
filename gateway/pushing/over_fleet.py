"""A push to the head of a fleet: kept on disk, and carried out by control on every gateway, or on none.

Control has this gateway take the weights, too, by the same question that it asks the members (gateway.pushing.taking):
what came in for that is still in memory here.
"""

import asyncio
import json
import logging
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from gateway.balancing.view_link import ViewLink
from gateway.errors import ControlDown, FleetPushFailed, GatewayError, PushRefused, Unserved
from gateway.pushing.kept import keep
from gateway.pushing.persist import parts_in
from gateway.pushing.pusher import Delta
from gateway.serving.pool import Pool
from gateway.serving.switching.push import Pushed, PushRequest
from gateway.sidecar.control_link import ControlProxy
from stepserve.contract import ActivateResult
from stepserve.fleet import CONTROL_PUSHES_PATH, KeptVersion
from stepserve.paths import Layout

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Pending:
    """What waits for control to ask for it. `pushed`: how it went here."""

    request: PushRequest
    is_taken: bool = False
    pushed: Pushed | None = None


@dataclass(slots=True)
class FleetPushes:
    """One at a time, as pushes are."""

    pool: Pool
    control: ControlProxy
    link: ViewLink
    layout: Layout
    _pending: _Pending | None = field(default=None, init=False)
    _leftovers: list[Path] = field(init=False)

    def __post_init__(self) -> None:
        self._leftovers = parts_in(self.layout.pushed)  # of a process that was killed while it wrote

    @property
    def is_fleet(self) -> bool:
        """By control's last view."""
        return self.link.members.is_fleet

    async def push(self, request: PushRequest, delta: Delta | None) -> Pushed:
        """As `Pool.push`, for this gateway alone where it has no members. Raises ControlDown in addition."""
        await self.link.look()
        if not self.is_fleet:
            return await self.pool.push(request)
        pending = self._pending = _Pending(request)
        try:
            folder = self.layout.pushed_version(request.model.id, request.version.number)
            leftovers, self._leftovers = self._leftovers, []
            try:
                for part in leftovers:
                    await asyncio.to_thread(shutil.rmtree, part, ignore_errors=True)
                kept = await asyncio.to_thread(keep, request, folder, delta)
            except OSError as error:
                raise Unserved(f"The weights cannot be kept in {folder}: {error.strerror or error}.", 5.0) from error
            return await self._carried_out(pending, kept)
        finally:
            self._pending = None
            if not pending.is_taken:
                request.weights.close()

    def taken(self, kept: KeptVersion) -> PushRequest | None:
        """What control asks for, if it is here already. Its outcome is `note`d, and its weights are the pool's."""
        pending = self._pending
        if pending is None or pending.is_taken or not _is_same(pending.request, kept):
            return None
        pending.is_taken = True
        return pending.request

    def note(self, request: PushRequest, pushed: Pushed) -> None:
        """How it went here, for whoever pushed it."""
        if self._pending is not None and self._pending.request is request:
            self._pending.pushed = pushed

    async def _carried_out(self, pending: _Pending, kept: KeptVersion) -> Pushed:
        request, number = pending.request, kept.version.number
        try:
            answer = await self.control.request("POST", CONTROL_PUSHES_PATH, kept.model_dump(mode="json"))
        except ControlDown as error:
            raise ControlDown(
                f"Whether the fleet serves version {number} of `{kept.model}` is seen at GET /fleet; one that is not"
                " committed is taken back."
            ) from error
        if answer.status_code != 200:
            raise _refusal(answer.status_code, answer.text)
        try:
            result = ActivateResult.model_validate_json(answer.content)
        except ValidationError as error:
            raise FleetPushFailed("control's answer makes no sense: are both of the same version?", 500) from error
        return _pushed(request, pending.pushed, result)


def _pushed(request: PushRequest, here: Pushed | None, result: ActivateResult) -> Pushed:
    """How it went in all, as told by control, and measured here."""
    error: GatewayError | None = None
    if result.status == "failed":
        proof = result.proof
        status = 422 if proof is not None and not proof.passed else 500
        error = here.error if here is not None else None
        error = error or FleetPushFailed(result.error or f"`{request.model.id}` did not take the weights.", status)
    return Pushed(
        paused_ms=max([result.paused_ms, *(each.paused_ms for each in result.gateways)]),
        held_ms=here.held_ms if here is not None else result.held_ms,
        in_flight=result.in_flight,
        proof=result.proof,
        error=error,
        gateways=tuple(result.gateways),
    )


def _refusal(status: int, text: str) -> GatewayError:
    """What control said before anything was changed."""
    try:
        detail = str(json.loads(text)["detail"])
    except (ValueError, KeyError, TypeError):
        detail = text[:300]
    if status < 500:
        return PushRefused(f"The fleet takes no weights now: {detail}.")
    return Unserved(f"The fleet takes no weights now: {detail}.", 5.0)


def _is_same(request: PushRequest, kept: KeptVersion) -> bool:
    return (request.model.id, request.model.digest, request.version.number) == (
        kept.model, kept.digest, kept.version.number,
    )  # fmt: skip
