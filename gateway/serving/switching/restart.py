"""Restart: the old engine ends before the new one starts, and new requests wait meanwhile."""

import logging

from gateway.errors import LOAD_FAILURES, DrainFailed, GatewayError
from gateway.serving.slot import Loaded, Slot
from gateway.serving.switching.target import Target
from gateway.serving.switching.transaction import Outcome, Transaction

log = logging.getLogger(__name__)


async def restart(switch: Transaction) -> Outcome:
    old = [slot for slot in (switch.slot, switch.twin) if slot is not None]
    try:
        await switch.drain(*old)
    except DrainFailed as error:
        return switch.unchanged(error)
    switch.pause()
    for slot in old:
        await slot.shutdown()
    try:
        served, proof = await switch.target.load(switch.start_engine)
    except LOAD_FAILURES as error:
        return await start_again(switch, error)
    return Outcome(served, proof)


async def start_again(switch: Transaction, error: GatewayError) -> Outcome:
    """Starts what served before in a new engine; its own has ended. Nothing serves where that fails too."""
    name, before = switch.target.model.id, switch.before
    if switch.running is None or before is None:
        return Outcome(None, error=error, down=f"`{name}` could not be loaded and no other model is.")
    try:
        return Outcome(await _loaded(before, switch), error=error)
    except LOAD_FAILURES as again:
        return Outcome(None, error=error, down=f"Neither `{name}` nor `{before.host.id}` loads: {again}")


async def _loaded(before: Target, switch: Transaction) -> Loaded:
    """An adapter's base serves alone where the adapter cannot be put back on it. Raises LOAD_FAILURES."""
    slot, _ = await Slot.load(before.host, switch.start_engine, before.host_reference)
    if before.model.base is None:
        return slot
    try:
        return (await before.mount(slot))[0]
    except LOAD_FAILURES as error:
        log.error("%s cannot be put back on its base, which serves instead: %s", before.model.id, error)
        return slot
