"""Promote: the candidate is loaded beside already; it is proved again and takes over, and the old one stays loaded."""

from gateway.errors import GatewayError, ProofFailed
from gateway.serving.slot import Slot
from gateway.serving.switching.transaction import Outcome, Transaction


async def promote(switch: Transaction, candidate: Slot) -> Outcome:
    old = switch.running
    reference = switch.request.reference
    try:
        proof = await candidate.engine.prove(reference)
        if not proof.passed:
            raise ProofFailed(candidate.model.id, proof)
    except GatewayError as error:
        outcome = switch.failed(error, None if old is None or old.dead else old)
        return Outcome(outcome.result, outcome.slot, retired=candidate)
    candidate.become(switch.request.model, reference)
    switch.open(candidate)
    if old is not None and switch.request.in_flight == "abort":
        await old.abort_requests()
    return Outcome(switch.activated(candidate, proof).result, candidate, kept=old)
