"""Blue/green: the new engine is loaded and proved while the old one answers, then takes over; nobody waits."""

from gateway.errors import LOAD_FAILURES
from gateway.serving.switching.transaction import Outcome, Transaction


async def blue_green(switch: Transaction) -> Outcome:
    try:
        served, proof = await switch.target.load(switch.start_engine)
    except LOAD_FAILURES as error:
        return switch.unchanged(error)
    return Outcome(served, proof)
