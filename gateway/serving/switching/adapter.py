"""Adapter: the engine has the weights already; an adapter on them takes over, or they do from their adapter."""

from gateway.errors import LOAD_FAILURES
from gateway.serving.switching.transaction import Outcome, Transaction


async def adapter(switch: Transaction) -> Outcome:
    slot = switch.slot
    assert slot is not None, "the plan chooses this only for a running engine"
    try:
        served, proof = await switch.mount(slot)
    except LOAD_FAILURES as error:
        return switch.unchanged(error)
    return Outcome(served, proof)
