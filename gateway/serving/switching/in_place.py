"""In place: the new checkpoint's tensors are written into the live parameters of the running engine."""

import asyncio
import logging
import time
from contextlib import suppress

from gateway.errors import DrainFailed, EngineReloadFailed, GatewayError, ProofFailed
from gateway.serving.adapter import proved
from gateway.serving.proof_difference import paused_tokens
from gateway.serving.slot import Loaded, Slot
from gateway.serving.soundness import spoils_cache
from gateway.serving.switching.restart import start_again
from gateway.serving.switching.target import Target
from gateway.serving.switching.transaction import Outcome, Transaction
from gateway.serving.weights.staged import StagedWeights
from stepserve.contract import ModelRef, Proof, Reference

log = logging.getLogger(__name__)


async def stage(switch: Transaction) -> None:
    """Before requests wait: what a switch in place needs and does not need the running model for. What cannot be made
    ready is read later, and what is wrong is found then.
    """
    assert switch.slot is not None, "the plan chooses this only for a running engine"
    await make_ready(switch.slot, switch.target.host, switch.target.host_reference, None)


async def make_ready(slot: Slot, model: ModelRef, reference: Reference | None, weights: StagedWeights | None) -> None:
    """What `load_and_prove` takes, while requests are answered; what cannot be made ready it reads itself."""
    began_s = time.monotonic()
    try:
        why = await _staged(slot, model, reference, weights)
    except GatewayError as error:
        why = str(error)
    if why is None:
        log.info("%s was made ready in %.0f ms", model.id, 1000 * (time.monotonic() - began_s))
    else:
        log.info("%s is read while requests wait, and not before: %s", model.id, why)


async def _staged(
    slot: Slot, model: ModelRef, reference: Reference | None, weights: StagedWeights | None
) -> str | None:
    """As Engine.stage, but for an engine that hangs, which the watchdog sees meanwhile: that is not waited for."""
    path = weights.path if weights is not None else None
    staging = asyncio.ensure_future(slot.engine.stage(model, reference, path))
    condemned = asyncio.ensure_future(slot.condemned())
    try:
        await asyncio.wait((staging, condemned), return_when=asyncio.FIRST_COMPLETED)
        return staging.result() if staging.done() else "the engine hangs"
    finally:
        staging.cancel()
        condemned.cancel()


async def in_place(switch: Transaction) -> Outcome:
    slot, before = switch.slot, switch.before
    assert slot is not None, "the plan chooses this only for a running engine"
    assert before is not None, "what runs was switched to"
    keeps = switch.request.in_flight == "keep"
    if not keeps:
        try:
            await switch.drain(slot)
        except DrainFailed as error:
            with suppress(GatewayError):  # which who serves will find out
                await slot.engine.unstage()
            return switch.unchanged(error)
    switch.pause()
    async with slot.reloading():
        try:
            if keeps:
                _check_alive(slot)
                await slot.engine.freeze()
            served, proof = await _take(slot, switch.target)
            if keeps:
                await slot.engine.resume()
        except GatewayError as error:
            return await _restore(switch, slot, before, error, resume=keeps)
    return Outcome(served, proof)


async def _take(slot: Slot, target: Target) -> tuple[Loaded, Proof]:
    """Raises as `load_and_prove`."""
    proof = await load_and_prove(slot, target.host, target.host_reference, None)
    return (slot, proof) if target.model.base is None else await target.mount(slot)


async def load_and_prove(
    slot: Slot, model: ModelRef, reference: Reference | None, weights: StagedWeights | None
) -> Proof:
    """Of `weights`, or without them of the model's files. Frozen requests stay frozen.

    Raises EngineReloadFailed, EngineStartFailed (no answer to the proof), BadReference, ProofFailed.
    """
    _check_alive(slot)
    await slot.engine.reload(model, weights.path if weights is not None else None)
    signature = model.signature
    most_tokens = paused_tokens(signature.weights_bytes if signature is not None else 0)
    proof = await slot.engine.prove(reference, max_tokens=most_tokens)
    if not proof.passed:
        raise ProofFailed(model.id, proof)
    slot.soundness.note(proof)
    return proof


def _check_alive(slot: Slot) -> None:
    """Raises EngineReloadFailed."""
    if slot.dead:
        raise EngineReloadFailed("the engine died before anything was loaded into it")


async def put_back(slot: Slot, error: GatewayError) -> None:
    """What the slot answers with, back into its engine, which has a mixture or something that failed with `error`.
    Frozen requests stay frozen.

    Raises as `load_and_prove`.
    """
    if isinstance(error, ProofFailed) and spoils_cache(error.proof):
        # What was computed is not finite, and would spoil the answers of whoever gets its blocks next.
        await slot.engine.clear_cache()
    await load_and_prove(slot, slot.model, slot.reference, slot.weights)


async def _restore(switch: Transaction, slot: Slot, before: Target, error: GatewayError, *, resume: bool) -> Outcome:
    """The previous tensors back into the engine; where that fails too, a new engine with the previous checkpoint."""
    try:
        await put_back(slot, error)
        if switch.running is not None and switch.running is not slot:  # an adapter, which is there still
            await proved(switch.running, before.reference)
        if resume:
            await slot.engine.resume()
    except GatewayError as again:
        log.error("%s cannot be loaded back in place, starting it again: %s", slot.model.id, again)
        await slot.abort_requests()
        await switch.room()  # before the old engine's memory is free, which nobody else is to take
        await slot.shutdown()
        return await start_again(switch, error)
    return Outcome(switch.running, error=error)
