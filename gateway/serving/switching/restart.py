"""Restart: the old engine ends before the new one starts, and new requests wait meanwhile."""

from gateway.errors import LOAD_FAILURES
from gateway.serving.slot import Slot
from gateway.serving.switching.transaction import Outcome, Transaction


async def restart(switch: Transaction) -> Outcome:
    old = switch.running
    switch.hold()
    if old is not None:
        if not await switch.drain(old):
            return switch.drain_failed(old)
        switch.pause()
        await old.shutdown()
    else:
        switch.pause()
    try:
        candidate, proof = await Slot.load(switch.request.model, switch.start_engine, switch.request.reference)
    except LOAD_FAILURES as error:
        return switch.failed(error, await start_again(switch, old))
    switch.open(candidate)
    return switch.activated(candidate, proof)


async def start_again(switch: Transaction, old: Slot | None) -> Slot | None:
    """Starts what served before. None: there was nothing, or it does not come up either."""
    name = switch.request.model.id
    if old is None:
        switch.down(f"`{name}` could not be loaded and no other model is.")
        return None
    try:
        back, _ = await Slot.load(old.model, switch.start_engine, old.reference)
    except LOAD_FAILURES as error:
        switch.down(f"Neither `{name}` nor `{old.model.id}` loads: {error}")
        return None
    switch.open(back)
    return back
