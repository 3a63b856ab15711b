"""In place: the new checkpoint's tensors are written into the live parameters of the running engine."""

import logging

from gateway.errors import EngineReloadFailed, GatewayError, ProofFailed
from gateway.serving.proof_difference import paused_tokens
from gateway.serving.slot import Slot
from gateway.serving.switching.restart import start_again
from gateway.serving.switching.transaction import Outcome, Transaction
from stepserve.contract import ModelRef, Proof, Reference

log = logging.getLogger(__name__)


async def in_place(switch: Transaction) -> Outcome:
    slot = switch.running
    assert slot is not None, "the plan chooses this only for a running engine"
    previous, previous_reference = slot.model, slot.reference
    keeps = switch.request.in_flight == "keep"
    switch.hold()
    if not keeps and not await switch.drain(slot):
        return switch.drain_failed(slot)
    switch.pause()
    with slot.busy_switching():
        try:
            if keeps:
                await slot.engine.freeze()
            proof = await _take(slot, switch.request.model, switch.request.reference, resume=keeps)
        except GatewayError as error:
            clear = isinstance(error, ProofFailed) and error.proof.mean_abs_diff is None and not keeps
            back_to = await _restore(switch, slot, previous, previous_reference, resume=keeps, clear=clear)
            return switch.failed(error, back_to)
    switch.open(slot)
    return switch.activated(slot, proof)


async def _take(slot: Slot, model: ModelRef, reference: Reference | None, *, resume: bool) -> Proof:
    """Loads and proves; frozen requests go on before the proof, which the scheduler could not run otherwise.

    Raises EngineReloadFailed, EngineStartFailed (no answer to the proof), BadReference, ProofFailed.
    """
    if slot.dead:
        raise EngineReloadFailed("the engine died before anything was loaded into it")
    await slot.engine.reload(model)
    slot.become(model, reference)
    if resume:
        await slot.engine.resume()
    weights_bytes = model.signature.weights_bytes if model.signature is not None else 0
    proof = await slot.engine.prove(reference, max_tokens=paused_tokens(weights_bytes))
    if not proof.passed:
        raise ProofFailed(model.id, proof)
    return proof


async def _restore(
    switch: Transaction, slot: Slot, previous: ModelRef, reference: Reference | None, *, resume: bool, clear: bool
) -> Slot | None:
    """The previous tensors back into the engine; where that fails too, a new engine with the previous checkpoint.

    `clear`: what the candidate computed is not finite, and would spoil the answers of whoever gets its blocks next.
    """
    try:
        if clear:
            await slot.engine.clear_cache()
        await _take(slot, previous, reference, resume=resume)
    except GatewayError as error:
        log.error("%s cannot be loaded back in place, starting it again: %s", previous.id, error)
        slot.become(previous, reference)
        await slot.abort_requests()
        await slot.shutdown()
        return await start_again(switch, slot)
    switch.open(slot)
    return slot
