"""From a number to an attempt that came to its end: made by the strategy, filtered, verified."""

import asyncio
from dataclasses import dataclass

from datagen.asking import Asking
from datagen.concurrent_attempts import FinishedAttempt
from datagen.filters import Filters
from datagen.records import Draft, Outcome
from datagen.strategy import Strategy
from datagen.verification import Ranking, Verification


@dataclass(frozen=True, slots=True)
class Attempting:
    strategy: Strategy
    filters: Filters
    verification: Verification

    async def make(self, number: int, ask: Asking) -> FinishedAttempt:
        return await self.checked(await self.strategy.attempt(number, ask), number, ask)

    async def checked(self, outcome: Outcome, number: int, ask: Asking) -> FinishedAttempt:
        """What filters and verifiers leave of it."""
        rejected = list(outcome.rejections)
        fit: list[Draft] = []
        for draft in outcome.drafts:
            rejection = self.filters.check(draft)
            if rejection is None:
                fit.append(draft)
            else:
                rejected.append(rejection)
        if self.verification.is_empty or isinstance(self.strategy, Ranking):
            return FinishedAttempt(number, ask, fit, rejected)
        passed: list[Draft] = []
        for verified in await asyncio.gather(*(self.verification.verified(draft, ask) for draft in fit)):
            if verified.rejection is None:
                passed.append(verified.draft)
            else:
                rejected.append(verified.rejection)
        return FinishedAttempt(number, ask, passed, rejected)
