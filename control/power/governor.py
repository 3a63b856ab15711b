"""Keeps the cards and the job queue at the profile that holds: at start, when one is chosen, and by the clock."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from control.errors import NotOffered
from control.power.choices import PowerChoices
from control.power.limiter import Limiter
from control.power.profiles import Choice, InForce, Source, clamped, in_force
from control.tasks import Tasks
from control.telemetry.cards import Card, PowerRefused
from control.telemetry.sampler import CardSampler, in_thread
from stepserve.settings import Settings

log = logging.getLogger(__name__)

_LOOK_AGAIN_S = 15.0
_PATIENCE_S = 20.0
_SAME_W = 1.0


class JobLimit(Protocol):
    """The job queue as this needs it."""

    def set_max_concurrent_jobs(self, count: int) -> None:
        """Holds at once: more jobs start, or none until fewer run."""
        ...


@dataclass(frozen=True, slots=True)
class PowerState:
    """`power_limit_w`: what the profile asks for, in the range of the first card; None where it asks for nothing.
    `card_power_limit_w` is that card's limit as it is. `reason` says why a wish was not fulfilled.
    """

    profile: str | None = None
    source: Source = "none"
    power_limit_w: float | None = None
    card_power_limit_w: float | None = None
    max_concurrent_jobs: int = 1
    power_applied: bool = False
    reason: str | None = None


class Governor:
    def __init__(
        self,
        settings: Settings,
        choices: PowerChoices,
        sampler: CardSampler,
        jobs: JobLimit,
        *,
        limiter: Limiter | None = None,
        now: Callable[[], datetime] = lambda: datetime.now().astimezone(),
    ) -> None:
        self._settings = settings.power
        self._usual_jobs = settings.max_concurrent_jobs
        self._choices = choices
        self._sampler = sampler
        self._limiter = limiter or Limiter(sampler.reader)
        self._jobs = jobs
        self._now = now
        self._choice: Choice | None = None
        self._holds: InForce | None = None
        self._changed_cards = False
        self._applying = asyncio.Lock()
        self.state = PowerState(max_concurrent_jobs=self._usual_jobs)

    async def start(self, background: Tasks) -> None:
        """Takes up the kept choice. Job limits hold from here on; the cards are looked at, and limited, by tasks."""
        self._choice = await self._choices.last()
        self._limit_jobs(self._now_in_force())
        background.spawn(self._sampler.run(), name="card sampler")
        background.spawn(self.run(), name="power")

    async def run(self) -> None:
        while True:
            if self._now_in_force() != self._holds or self._cards_strayed():
                await self.apply()
            await asyncio.sleep(_LOOK_AGAIN_S)

    async def choose(self, profile: str) -> PowerState:
        """Raises NotOffered, DatabaseUnavailable."""
        if profile not in self._settings.profiles:
            raise NotOffered(f"profile: there is no {profile!r}; there are {', '.join(self._settings.profiles)}")
        self._choice = await self._choices.keep(profile)
        await self.apply()
        return self.state

    @property
    def profiles(self) -> dict[str, dict[str, Any]]:
        """By name: `power_limit_w`, `max_concurrent_jobs`, `description`."""
        return {name: profile.model_dump() for name, profile in self._settings.profiles.items()}

    def _now_in_force(self) -> InForce:
        return in_force(self._settings, self._choice, self._now())

    async def apply(self) -> None:
        """Brings cards and jobs to what holds now; of several at once, one after the other."""
        async with self._applying:
            holds = self._now_in_force()
            jobs = self._limit_jobs(holds)
            seen = await self._sampler.look()
            refused = [await self._set(card, watts) for card in seen.cards if (watts := self._wish(card, holds))]
            reasons = sorted({reason for reason in refused if reason})
            if refused:
                seen = await self._sampler.look()
            watts = self._settings.profiles[holds.profile].power_limit_w if holds.profile is not None else None
            wishes = watts is not None
            reason = "; ".join(reasons) or (seen.problem if wishes else None)
            self.state = PowerState(
                profile=holds.profile,
                source=holds.source,
                power_limit_w=watts and clamped(watts, seen.cards[0].power_range if seen.cards else None),
                card_power_limit_w=seen.cards[0].power_limit_w if seen.cards else None,
                max_concurrent_jobs=jobs,
                power_applied=wishes and reason is None,
                reason=reason,
            )
            if holds != self._holds and (self._holds or holds.profile):
                log.info("power profile %s (%s): %s", holds.profile, holds.source, reason or "holds")
            self._holds = holds

    def _limit_jobs(self, holds: InForce) -> int:
        profile = self._settings.profiles[holds.profile] if holds.profile else None
        jobs = profile.max_concurrent_jobs if profile else self._usual_jobs
        self._jobs.set_max_concurrent_jobs(jobs)
        return jobs

    def _wish(self, card: Card, holds: InForce) -> float | None:
        """The limit that this card should have; None: whatever it has. A profile that ended leaves its default."""
        if holds.profile is None:
            return card.power_range.default_w if card.power_range and self._changed_cards else None
        watts = self._settings.profiles[holds.profile].power_limit_w
        return None if watts is None else clamped(watts, card.power_range)

    async def _set(self, card: Card, watts: float) -> str | None:
        """Why it could not be done, or None."""
        if card.power_limit_w is not None and abs(card.power_limit_w - watts) < _SAME_W:
            return None
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await asyncio.wrap_future(in_thread(lambda: self._limiter.set(card.index, watts)))
        except PowerRefused as error:
            return str(error)
        except TimeoutError:
            return f"the driver has not answered for {_PATIENCE_S:.0f} s"
        self._changed_cards = True
        return None

    def _cards_strayed(self) -> bool:
        """A driver that was loaded anew, or a person, set another limit than the one that was applied."""
        if self._holds is None or not self.state.power_applied:
            return False
        wishes = ((card.power_limit_w, self._wish(card, self._holds)) for card in self._sampler.seen.cards)
        return any(has is not None and wish is not None and abs(has - wish) >= _SAME_W for has, wish in wishes)
