"""In place: the new checkpoint's tensors are written into the live parameters of the running engine."""

import logging

from gateway.errors import DrainFailed, EngineReloadFailed, GatewayError, ProofFailed
from gateway.serving.adapter import proved
from gateway.serving.proof_difference import paused_tokens
from gateway.serving.slot import Loaded, Slot
from gateway.serving.soundness import spoils_cache
from gateway.serving.switching.restart import start_again
from gateway.serving.switching.target import Target
from gateway.serving.switching.transaction import Outcome, Transaction
from stepserve.contract import Proof

log = logging.getLogger(__name__)


async def in_place(switch: Transaction) -> Outcome:
    slot, before = switch.slot, switch.before
    assert slot is not None, "the plan chooses this only for a running engine"
    assert before is not None, "what runs was switched to"
    keeps = switch.request.in_flight == "keep"
    if not keeps:
        try:
            await switch.drain(slot)
        except DrainFailed as error:
            return switch.unchanged(error)
    switch.pause()
    async with slot.reloading():
        try:
            if keeps:
                await slot.engine.freeze()
            served, proof = await _take(slot, switch.target, resume=keeps)
        except GatewayError as error:
            clear = isinstance(error, ProofFailed) and spoils_cache(error.proof)
            return await _restore(switch, slot, before, error, resume=keeps, clear=clear)
    return Outcome(served, proof)


async def _take(slot: Slot, target: Target, *, resume: bool) -> tuple[Loaded, Proof]:
    """Loads and proves; frozen requests go on before the proof, which the scheduler could not run otherwise.

    Raises EngineReloadFailed, EngineStartFailed (no answer to the proof), BadReference, ProofFailed.
    """
    if slot.dead:
        raise EngineReloadFailed("the engine died before anything was loaded into it")
    await slot.engine.reload(target.host)
    if resume:
        await slot.engine.resume()
    signature = target.host.signature
    proof = await slot.engine.prove(
        target.host_reference, max_tokens=paused_tokens(signature.weights_bytes if signature is not None else 0)
    )
    if not proof.passed:
        raise ProofFailed(target.host.id, proof)
    slot.soundness.note(proof)
    return (slot, proof) if target.model.base is None else await target.mount(slot)


async def _restore(
    switch: Transaction, slot: Slot, before: Target, error: GatewayError, *, resume: bool, clear: bool
) -> Outcome:
    """The previous tensors back into the engine; where that fails too, a new engine with the previous checkpoint.

    `clear`: what the candidate computed is not finite, and would spoil the answers of whoever gets its blocks next.
    """
    try:
        if clear:
            if resume:  # what was frozen has gone on meanwhile
                await slot.engine.freeze()
            await slot.engine.clear_cache()
        await _take(slot, Target(slot.model, slot.reference), resume=resume)
        if switch.running is not None and switch.running is not slot:  # an adapter, which is there still
            await proved(switch.running, before.reference)
    except GatewayError as again:
        log.error("%s cannot be loaded back in place, starting it again: %s", slot.model.id, again)
        await slot.abort_requests()
        await switch.room()  # before the old engine's memory is free, which nobody else is to take
        await slot.shutdown()
        return await start_again(switch, error)
    return Outcome(switch.running, error=error)
