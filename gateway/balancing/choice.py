"""Which of several members answers a request. Pure.

A request without a key goes to the member with the least work. One with a key (a session, or how its prompt begins)
goes where equal keys went before, by rendezvous hashing (Thaler and Ravishankar, 1998): each key ranks all members, and
one that leaves changes nothing for the keys of the others. Loads are bounded (Mirrokni, Thorup, Zadimoghaddam, 2016):
of the members whose work is at most BOUND times the mean, the first in the key's rank.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Protocol, TypeVar

BOUND = 1.25
MAX_SESSIONS = 100_000
_MASK = (1 << 64) - 1


class Loaded(Protocol):
    """A member, as far as the choice depends on it. `seed`: `hashed` of its id. `last_turn` grows with every turn."""

    @property
    def seed(self) -> int: ...

    @property
    def outstanding_tokens(self) -> int: ...

    @property
    def last_turn(self) -> int: ...


M = TypeVar("M", bound=Loaded)


def hashed(text: bytes) -> int:
    """64 bits."""
    return int.from_bytes(blake2b(text, digest_size=8).digest())


def least_busy(members: Iterable[M]) -> M:
    """Among equals the one whose turn is longest ago. `members` has at least one."""
    return min(members, key=lambda each: (each.outstanding_tokens, each.last_turn))


def preferred(members: Sequence[M], key: int) -> M:
    """The first in the key's rank, whatever its work. `members` has at least one.

    Ranks are by the mixing of splitmix64, written out here because it is done for every member.
    """
    chosen, highest = members[0], -1
    for each in members:
        mixed = (key ^ each.seed) * 0xBF58476D1CE4E5B9 & _MASK
        mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & _MASK
        weight = mixed ^ mixed >> 31
        if weight > highest:
            chosen, highest = each, weight
    return chosen


def within_bound(members: Sequence[M], key: int, tokens: int) -> M:
    """The first in the key's rank that has at most BOUND times the mean of all, with the request's `tokens` counted in.

    There is always one, since not all can be above their mean. `members` has at least one.
    """
    bound = BOUND * (sum(each.outstanding_tokens for each in members) + tokens) / len(members)
    return preferred([each for each in members if each.outstanding_tokens <= bound], key)


class Sessions:
    """Where each session is: it stays with its member for as long as that may be asked, whatever its load.

    The MAX_SESSIONS used last are kept. One that was forgotten is placed by its key again, which mostly leads back.
    """

    def __init__(self, most: int = MAX_SESSIONS) -> None:
        self._most = most
        self._places: OrderedDict[int, int] = OrderedDict()

    def choose(self, members: Sequence[M], session: int, tokens: int) -> M:
        """`members` are those that may be asked, at least one."""
        seed = self._places.get(session)
        chosen = next((each for each in members if each.seed == seed), None) if seed is not None else None
        if chosen is None:
            chosen = within_bound(members, session, tokens)
        self._places[session] = chosen.seed
        self._places.move_to_end(session)
        if len(self._places) > self._most:
            self._places.popitem(last=False)
        return chosen
