"""Proves the active model while it serves: now and then, soon after an answer was refused, and when it is asked for.

What is found is kept with the slot or the adapter (gateway.serving.soundness), from where /health and /status have it.
Nothing is switched or restarted for it: whether the files, the memory or the engine is at fault is for a person to find
out.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.errors import GatewayError, SwitchInProgress, Unserved
from gateway.metrics import PROOF_DIFFERENCE, SELF_CHECKS, model_label
from gateway.serving.proof_difference import paused_tokens
from gateway.serving.slot import Loaded
from gateway.serving.soundness import spoils_cache
from stepserve.contract import ModelRef, Proof, ProveRequest, Reference

log = logging.getLogger(__name__)

_TICK_S = 1.0
_SUSPICION_EVERY_S = 30.0  # so often at most, however many requests make a model compute nonsense


class Unfinished(Exception):
    """What serves was switched or died meanwhile, or the engine had no time for a proof: it says nothing."""


@dataclass(slots=True)
class SelfCheck:
    """`serving` gives the active model, or None while requests wait or are refused. `period_s`: the time between two
    checks of a model that nobody suspects; 0 for none. One that is due waits for the engine to be idle, for as long
    again, and then goes behind all other work.
    """

    serving: Callable[[], Loaded | None]
    period_s: float
    tick_s: float = _TICK_S
    suspicion_every_s: float = _SUSPICION_EVERY_S
    clock_s: Callable[[], float] = time.monotonic
    _one: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)
    _since: tuple[Loaded | None, float] = field(default=(None, 0.0), init=False)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(self.tick_s)
            served = self.serving()
            if served is not None and not served.dead and self._is_due(served):
                try:
                    await self._check(served)
                except (GatewayError, Unfinished) as error:
                    SELF_CHECKS.labels(outcome="unfinished").inc()
                    log.info("the check of %s was not finished: %s", served.model.id, error)
                finally:
                    self._since = (served, self.clock_s())

    async def prove(self, asked: ProveRequest) -> Proof:
        """Of the active model at once, in full. A proof that is not passed is a result.

        Raises SwitchInProgress when it was switched meanwhile, Unserved when nothing serves, EngineStartFailed,
        BadReference.
        """
        served = self.serving()
        if served is None or served.dead:
            raise Unserved("Nothing serves now that could be proved.", 5.0)
        if not _same(served.model, asked.model):
            raise SwitchInProgress(served.model.id)
        try:
            return await self._prove(served, asked.reference or served.reference, gently=False)
        except Unfinished:
            raise SwitchInProgress(served.model.id) from None

    def _is_due(self, served: Loaded) -> bool:
        if self._since[0] is not served:  # new here, and proved just now
            self._since = (served, self.clock_s())
        waited_s = self.clock_s() - self._since[1]
        if served.soundness.health == "suspect":
            return waited_s >= self.suspicion_every_s
        if not self.period_s or waited_s < self.period_s:
            return False
        return not served.host.in_flight or waited_s >= 2 * self.period_s

    async def _check(self, served: Loaded) -> None:
        if served.soundness.health == "suspect":
            log.error("%s: %s", served.model.id, served.soundness.fault)
            await served.host.cleanse()  # of what such an answer left in the cache
        await self._prove(served, served.reference, gently=True)

    async def _prove(self, served: Loaded, reference: Reference | None, *, gently: bool) -> Proof:
        """Raises Unfinished, EngineStartFailed, BadReference."""
        model = served.model
        async with self._one:
            before = served.soundness.proof
            proof = await served.prove(reference, max_tokens=_most_tokens(model) if gently else None, gently=gently)
            # A reload that keeps requests changes the weights under a proof, which then is neither model's.
            if self.serving() is not served or served.model is not model or served.soundness.proof is not before:
                raise Unfinished("another model took over")
            if reference is not None:
                served.reference = reference
            served.soundness.note(proof)
        SELF_CHECKS.labels(outcome="passed" if proof.passed else "failed").inc()
        if proof.mean_abs_diff is not None:
            PROOF_DIFFERENCE.labels(model=model_label(model.id)).set(proof.mean_abs_diff)
        if not proof.passed:
            log.error("%s serves and fails its proof (%s): %s", model.id, proof.kind, proof.reason)
            if spoils_cache(proof):
                await served.host.cleanse()
        return proof


def _most_tokens(model: ModelRef) -> int:
    base = model.base or model
    return paused_tokens(base.signature.weights_bytes if base.signature is not None else 0)


def _same(served: ModelRef, asked: ModelRef) -> bool:
    return (served.id, served.digest) == (asked.id, asked.digest)
