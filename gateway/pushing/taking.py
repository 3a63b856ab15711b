"""What control asks of a gateway for the sake of pushes: to take a version that is kept on disk, or to keep its own."""

import asyncio
from dataclasses import dataclass

from gateway.errors import PushRefused, Unserved
from gateway.pushing import kept as kept_files
from gateway.pushing.over_fleet import FleetPushes
from gateway.pushing.pusher import Pusher
from gateway.serving.slot import Slot
from gateway.serving.switching.push import Pushed
from stepserve.contract import ActivateResult
from stepserve.fleet import KeptVersion
from stepserve.paths import Layout


@dataclass(slots=True)
class VersionTaker:
    """`pushes`: of the head of a fleet, which may have in memory what it is to take."""

    pusher: Pusher
    pushes: FleetPushes | None
    layout: Layout

    async def take(self, kept: KeptVersion) -> ActivateResult:
        """Puts it into the active model; a push that failed and was taken back is a result. Raises as `Pool.push` and
        `kept.read`.
        """
        pool, slot = self.pusher.pool, self.pusher.target(kept.model)
        if (slot.version.number, slot.model.digest) == (kept.version.number, kept.digest):
            return _result(kept, slot, Pushed(paused_ms=0.0, held_ms=0.0, in_flight=slot.in_flight), "none")
        request = self.pushes.taken(kept) if self.pushes is not None else None
        if request is None:
            request = await kept_files.read(kept, self.pusher)
        await pool.versions.reach(kept.model, kept.version.number)
        pushed = await pool.push(request)
        if self.pushes is not None:
            self.pushes.note(request, pushed)
        return _result(kept, slot, pushed, "push")

    async def keep(self) -> KeptVersion:
        """Writes the weights that were pushed to this gateway to disk. Raises PushRefused, Unserved."""
        pool = self.pusher.pool
        active, slot = pool.snapshot().active, pool.loaded.serving
        if active is None or not isinstance(slot, Slot) or slot.weights is None or not slot.version.number:
            raise PushRefused("No weights that were pushed serve here.")
        weights, version = slot.weights.duplicate(), slot.version
        folder = self.layout.pushed_version(active.id, version.number)
        try:
            return await asyncio.to_thread(
                kept_files.keep_served, active, slot, weights, version, slot.reference, folder
            )
        except OSError as error:
            raise Unserved(f"The weights cannot be kept in {folder}: {error.strerror or error}.", 5.0) from error
        finally:
            weights.close()


def _result(kept: KeptVersion, slot: Slot, pushed: Pushed, method: str) -> ActivateResult:
    failed = pushed.error is not None
    return ActivateResult.model_validate(
        {
            "status": "failed" if failed else "activated",
            "id": kept.model,
            "previous": kept.model,
            "method": method,
            "paused_ms": pushed.paused_ms,
            "held_ms": pushed.held_ms,
            "total_ms": pushed.held_ms,
            "in_flight": pushed.in_flight,
            "proof": pushed.proof,
            "error": str(pushed.error) if failed else None,
            "rolled_back_to": slot.model.id if failed and pushed.restored else None,
        }
    )
