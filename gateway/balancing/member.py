"""A member of the fleet as the head knows it: what control says of it, and what requests have shown."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from gateway.balancing.choice import hashed
from gateway.balancing.metrics import OPEN, OUTSTANDING, REQUESTS
from gateway.errors import DigestMismatch, GatewayError, ModelNotFound, NotLoaded
from gateway.upstream.breaker import Breaker
from gateway.upstream.errors import UpstreamMoved
from gateway.upstream.replica import Replica
from stepserve.fleet import FleetMember
from stepserve.hosts import Tier, Upstream

GATEWAY_HEADER = b"x-stepserve-gateway"
_DOUBT_S = 1.0
_turns = itertools.count()


@dataclass(slots=True, eq=False)
class Member:
    """`replica` None: this gateway itself. `label`: its name in metrics. `last_turn` grows with every turn taken.
    `left`: it is not a member any more. `doubted`: what control said of it when it served something else.
    """

    entry: FleetMember
    label: str
    replica: Replica | None
    seed: int
    breaker: Breaker = field(default_factory=Breaker)
    outstanding_tokens: int = 0
    last_turn: int = -1
    left: bool = False
    doubted: FleetMember | None = None
    _doubted_until_s: float = 0.0

    @classmethod
    def of(cls, entry: FleetMember, label: str) -> "Member":
        """Raises ValueError for a URL that nothing can be sent to."""
        breaker = Breaker()
        replica = None
        if entry.url is not None:
            upstream = Upstream(base_url=f"{entry.url.rstrip('/')}/v1")
            tier = Tier(upstreams=[upstream])
            mark = (GATEWAY_HEADER, entry.id.encode())
            name = f"Member `{entry.id}`"
            replica = Replica(label, tier, upstream.base_url, None, None, False, mark, name, breaker)
        return cls(entry, label, replica, hashed(entry.id.encode()), breaker)

    def admits(self, now_s: float) -> bool:
        """Whether it may be asked, going by what requests have shown."""
        return self.breaker.admits(now_s) and not self.is_doubted(now_s)

    def doubt(self, now_s: float) -> None:
        """It did not serve what control said: it is not asked until control says something else, or a moment later."""
        self.doubted, self._doubted_until_s = self.entry, now_s + _DOUBT_S

    def is_doubted(self, now_s: float) -> bool:
        doubted = self.doubted
        return doubted is not None and now_s < self._doubted_until_s and says_same(doubted, self.entry)

    @contextmanager
    def working(self, tokens: int) -> Iterator[None]:
        """One request is with it; how that ends is counted."""
        self.outstanding_tokens += tokens
        self.last_turn = next(_turns)
        self.breaker.enter()
        self._show()
        outcome = "answered"
        try:
            yield
            self.doubted = None
        except BaseException as error:
            outcome = outcome_of(error)
            raise
        finally:
            self.outstanding_tokens -= tokens
            self.breaker.abandon()
            self._show()
            if not self.left:
                REQUESTS.labels(self.label, outcome).inc()

    def _show(self) -> None:
        if not self.left:  # its series are gone
            OUTSTANDING.labels(self.label).set(self.outstanding_tokens)
            OPEN.labels(self.label).set(self.breaker.is_open)


def outcome_of(error: BaseException) -> str:
    """`answered` with a refusal that is the client's to mend; `moved`: it serves something else; `busy`; `failed`; or
    `abandoned`, because the client went away.
    """
    if isinstance(error, UpstreamMoved | DigestMismatch | ModelNotFound | NotLoaded):
        return "moved"
    if not isinstance(error, GatewayError):
        return "abandoned"
    if error.status == 429:
        return "busy"
    return "failed" if error.status >= 500 else "answered"


def says_same(one: FleetMember, other: FleetMember) -> bool:
    """Whether control says the same of both, but for what changes with every heartbeat."""
    return one.model_copy(update={"heartbeat_age_s": 0.0, "in_flight": 0}) == other.model_copy(
        update={"heartbeat_age_s": 0.0, "in_flight": 0}
    )
