"""One server of a tier, and the choice among several."""

import itertools
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from gateway.upstream.breaker import Breaker
from stepserve.contract import ACTIVE_ALIAS
from stepserve.hosts import Tier, Upstream

_turns = itertools.count()


@dataclass(slots=True, eq=False)
class Replica:
    """`models` is None until it is known which there are; those that hosts.json names are known from the start. `name`:
    what clients are told in place of the address.
    """

    tier_name: str
    tier: Tier
    base_url: str
    key: str | None
    models: tuple[str, ...] | None
    is_asked: bool  # which models it has, because hosts.json does not say
    mark: tuple[bytes, bytes]  # the header that names it, or its tier, on its answers
    name: str
    breaker: Breaker = field(default_factory=Breaker)
    in_flight: int = 0
    last_turn: int = -1

    @classmethod
    def of(cls, tier_name: str, tier: Tier, upstream: Upstream) -> "Replica":
        """Raises HostsRefused when the variable with its key is not set."""
        models = tuple(upstream.models) or None
        mark = (b"x-tier", tier_name.encode())
        number = next((place for place, each in enumerate(tier.upstreams, 1) if each.base_url == upstream.base_url), 1)
        name = f"Upstream {number} of `{tier_name}`"
        return cls(tier_name, tier, upstream.base_url, upstream.key(), models, models is None, mark, name)

    def is_as(self, other: "Replica") -> bool:
        """Whether hosts.json says the same of both."""
        mine = (self.tier_name, self.tier, self.base_url, self.key, self.is_asked)
        named = self.is_asked or self.models == other.models
        return named and mine == (other.tier_name, other.tier, other.base_url, other.key, other.is_asked)

    def serves(self, model: str | None) -> bool:
        """Whether it may be asked for the model; None: whichever it has."""
        return model is None or self.models is None or model in self.models

    def default_model(self) -> str | None:
        """What to ask for where a request names no model: the active one of another Stepserve, else the first."""
        if not self.models:
            return None
        return ACTIVE_ALIAS if ACTIVE_ALIAS in self.models else self.models[0]

    @contextmanager
    def busy(self) -> Iterator[None]:
        self.in_flight += 1
        self.last_turn = next(_turns)
        self.breaker.enter()
        try:
            yield
        finally:
            self.in_flight -= 1
            self.breaker.abandon()


def choose(replicas: Iterable[Replica], tried: Collection[Replica], now_s: float) -> Replica | None:
    """The least busy one that is not left alone; among equals the one whose turn is longest ago."""
    free = (each for each in replicas if each not in tried and each.breaker.admits(now_s))
    return min(free, key=lambda each: (each.in_flight, each.last_turn), default=None)
