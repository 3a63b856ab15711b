"""Blue/green: the new engine is loaded and proved beside the old one, then takes over; nobody waits."""

from gateway.errors import LOAD_FAILURES
from gateway.serving.slot import Slot
from gateway.serving.switching.transaction import Outcome, Transaction


async def blue_green(switch: Transaction) -> Outcome:
    old = switch.running
    assert old is not None, "the plan chooses this only beside a running engine"
    try:
        candidate, proof = await Slot.load(switch.request.model, switch.start_engine, switch.request.reference)
    except LOAD_FAILURES as error:
        return switch.failed(error, None if old.dead else old)
    switch.open(candidate)
    old.phase = "draining"
    return switch.activated(candidate, proof, retired=old)
