"""Promote: the candidate is loaded already; it is proved again and takes over, and the old one stays loaded."""

from gateway.errors import GatewayError
from gateway.serving.switching.transaction import Outcome, Transaction


async def promote(switch: Transaction) -> Outcome:
    assert switch.candidate is not None, "the pool chooses this only for a model that is loaded"
    try:
        served, proof = await switch.mount(switch.candidate)
    except GatewayError as error:
        return switch.unchanged(error, unfit=switch.candidate if switch.target.model.base is None else None)
    return Outcome(served, proof, keep=True)
