"""Promote: the candidate is loaded already; it is proved again and takes over, and the old one stays loaded."""

from dataclasses import replace

from gateway.errors import GatewayError
from gateway.serving.switching.transaction import Outcome, Transaction


async def promote(switch: Transaction) -> Outcome:
    assert switch.candidate is not None, "the pool chooses this only for a model that is loaded"
    try:
        served, proof = await switch.mount(switch.candidate)
    except GatewayError as error:
        outcome = switch.unchanged(error, unfit=switch.candidate if switch.target.model.base is None else None)
        if switch.before is None:
            return replace(
                outcome, down=f"`{switch.target.model.id}` could not take over and no other model is active."
            )
        return outcome
    return Outcome(served, proof, keep=True)
