"""Which model is loaded next: tables, and a day of mixed traffic in a world of one place."""

import itertools
import random
from collections import defaultdict
from dataclasses import dataclass, field

import pytest

from gateway.serving.turns import Close, Evict, Load, Resident, Waiting, in_order, next_turn
from gateway.serving.use import Use

BOUND_S = 60.0


def waiting(load: str, since_s: float = 0.0, *, load_s: float = 0.0, patient: bool = True) -> Waiting[str]:
    return Waiting(load, since_s, load_s, patient)


def busy(slot: str, in_flight: int = 1, **facts: float | bool) -> Resident[str]:
    return Resident(slot, in_flight=in_flight, **facts)  # type: ignore[arg-type]


def idle(slot: str, since_s: float = 0.0, **facts: float | bool | None) -> Resident[str]:
    return Resident(slot, idle_since_s=since_s, **facts)  # type: ignore[arg-type]


CASES: dict[str, tuple[list[Waiting[str]], list[Resident[str]], set[str], float, object]] = {
    "nobody waits": ([], [busy("a")], set(), 999.0, None),
    "what fits is loaded": ([waiting("b")], [busy("a")], {"b"}, 0.0, Load("b")),
    "the oldest request first": ([waiting("c", 2), waiting("b", 1)], [], {"b", "c"}, 3.0, Load("b")),
    "nothing overtakes what does not fit": ([waiting("b", 1), waiting("c", 2)], [busy("a")], {"c"}, 3.0, None),
    "a job comes after requests": ([waiting("j", 1, patient=False), waiting("b", 2)], [], {"b", "j"}, 3.0, Load("b")),
    "an idle model leaves at once": ([waiting("b", 5)], [idle("a", 4)], set(), 5.0, Evict("a")),
    "the one idle longest leaves": ([waiting("b", 9)], [idle("a", 4), idle("c", 3), busy("d")], set(), 9.0, Evict("c")),
    "what must stay stays": ([waiting("b", 9)], [idle("a", 4), idle("c", 3, stays=True)], set(), 9.0, Evict("a")),
    "nothing may leave": ([waiting("b")], [busy("a", stays=True)], set(), 999.0, None),
    # Its next request is expected within two of its gaps, and would have to wait for a load otherwise.
    "the next is expected": ([waiting("b")], [idle("a", 10, gap_s=2.0, load_s=8.0)], set(), 13.9, None),
    "the next did not come": ([waiting("b")], [idle("a", 10, gap_s=2.0, load_s=8.0)], set(), 14.0, Evict("a")),
    "loading again is sooner": ([waiting("b")], [idle("a", 10, gap_s=5.0, load_s=8.0)], set(), 10.0, Evict("a")),
    "not expected for ever": ([waiting("b")], [idle("a", 59, gap_s=2.0, load_s=8.0)], set(), 60.0, Evict("a")),
    "a job waits for the next too": (
        [waiting("j", patient=False)], [idle("a", 10, gap_s=2.0, load_s=8.0)], set(), 13.9, None
    ),
    "a busy model goes on": ([waiting("b")], [busy("a")], set(), 59.9, None),
    "until the bound": ([waiting("b")], [busy("a")], set(), 60.0, Close("a")),
    "a job ends no model's turn": ([waiting("j", patient=False)], [busy("a")], set(), 999.0, None),
    "the least busy is closed": ([waiting("b")], [busy("a", 3), busy("c", 2)], set(), 60.0, Close("c")),
    "what is closed stays closed": ([waiting("b")], [busy("a", 3, closed=True), busy("c")], set(), 60.0, Close("a")),
    "and leaves when it is empty": ([waiting("b")], [idle("a", 60, closed=True), idle("c")], set(), 61.0, Evict("a")),
    "who is inside is waited for": ([waiting("b")], [busy("a", answer_s=10.0)], set(), 50.0, Close("a")),
    "so are the turns before": (
        [waiting("b"), waiting("c", 5, load_s=8.0), waiting("d", 6, load_s=8.0)],
        [busy("a", answer_s=2.0)],
        set(),
        60.0 - 8.0,  # d: 66 - 2 (a ends) - 0 and 2 (b) - 8 and 2 (c)
        Close("a"),
    ),
    "and not earlier": (
        [waiting("b"), waiting("c", 5, load_s=8.0), waiting("d", 6, load_s=8.0)],
        [busy("a", answer_s=2.0)],
        set(),
        60.0 - 8.1,
        None,
    ),
    "half the bound is the model's that serves": ([waiting("b")], [busy("a", answer_s=500.0)], set(), 29.9, None),
    "and no more": ([waiting("b")], [busy("a", answer_s=500.0)], set(), 30.0, Close("a")),
}  # fmt: skip


@pytest.mark.parametrize(("queue", "residents", "fits", "now_s", "turn"), CASES.values(), ids=CASES.keys())
def test_whose_turn_it_is(
    queue: list[Waiting[str]], residents: list[Resident[str]], fits: set[str], now_s: float, turn: object
) -> None:
    assert next_turn(queue, residents, fits.__contains__, BOUND_S, now_s) == turn


def test_without_a_bound_it_is_first_come_first_served() -> None:
    assert next_turn([waiting("b", 7.0)], [busy("a")], lambda _: False, 0.0, 7.0) == Close("a")


def test_the_order_of_turns() -> None:
    queue = [waiting("job", 0.0, patient=False), waiting("c", 2.0), waiting("b", 1.0)]
    assert [each.load for each in in_order(queue)] == ["b", "c", "job"]


@dataclass(slots=True)
class World:
    """One place, loads and answers that take time, and requests as (arrival, model, seconds that its answer takes)."""

    requests: list[tuple[float, str, float]]
    bound_s: float
    load_s: float
    loads: list[str] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)
    served: list[str] = field(default_factory=list)

    def run(self) -> "World":
        """It looks every 50 ms, as the pool does."""
        now_s, here, ready_s, closed = 0.0, "", 0.0, False
        uses: defaultdict[str, Use] = defaultdict(Use)
        inside: list[tuple[float, float]] = []  # when each entered, and when it will leave
        queue: list[tuple[float, str, float]] = []
        coming = sorted(self.requests)[::-1]
        while coming or queue:
            now_s = round(now_s + 0.05, 2)
            if not queue and not inside and coming:
                now_s = max(now_s, coming[-1][0])
            while coming and coming[-1][0] <= now_s:
                queue.append(coming.pop())
                uses[queue[-1][1]].come(queue[-1][0])
            if now_s < ready_s:
                continue
            for each in [each for each in inside if each[1] <= now_s]:
                inside.remove(each)
                uses[here].leave(each[1], each[0], last=not inside)
            for request in [each for each in queue if each[1] == here and not closed]:
                queue.remove(request)
                inside.append((now_s, now_s + request[2]))
                self.waits_s.append(now_s - request[0])
                self.served.append(here)
            oldest = {name: min(at for at, each, _ in queue if each == name) for _, name, _ in queue if name != here}
            use = uses[here]
            place = Resident(here, len(inside), use.last_s, use.gap_s, use.answer_s, self.load_s, closed)
            turn = next_turn(
                [waiting(name, at, load_s=self.load_s) for name, at in oldest.items()],
                [place] if here else [],
                lambda _, empty=not here: empty,  # type: ignore[misc]
                self.bound_s,
                now_s,
            )
            closed = isinstance(turn, Close)
            match turn:
                case Evict():
                    here = ""
                case Load(name):
                    here, ready_s = name, now_s + self.load_s
                    uses[name].load(ready_s, self.load_s)
                    self.loads.append(name)
        return self


def test_a_b_a_a_c_is_served_as_a_a_a_b_c() -> None:
    requests = [(0.0, "a", 3.0), (0.1, "b", 1.0), (0.2, "a", 3.0), (2.5, "a", 3.0), (2.6, "c", 1.0)]
    world = World(requests, bound_s=30.0, load_s=2.0).run()
    assert world.served == [*"aaabc"]
    assert world.loads == [*"abc"]


def first_come(requests: list[tuple[float, str, float]]) -> int:
    """Loads, where each request is answered by turn, and its model stays as long as the next ones are for it."""
    names = [name for _, name, _ in sorted(requests)]
    return 1 + sum(one != other for one, other in itertools.pairwise(names))


ANSWERS_S = {"a": 3.0, "b": 1.0, "c": 2.0}


def mixed(
    per_s: float, seconds: float, weights: dict[str, float], *, jitter: float = 0.0
) -> list[tuple[float, str, float]]:
    """Requests that come independently of each other. `jitter`: the part of an answer's time that is by chance."""
    chance, now_s, requests = random.Random(23), 0.0, []
    while (now_s := now_s + chance.expovariate(per_s)) < seconds:
        name = chance.choices([*weights], [*weights.values()])[0]
        takes_s = ANSWERS_S[name] * (1 - jitter * chance.random())
        requests.append((round(now_s, 2), name, round(takes_s, 2)))
    return requests


ALIKE, ONE_MOST = {"a": 1, "b": 1, "c": 1}, {"a": 8, "b": 1, "c": 1}


@pytest.mark.parametrize(
    ("per_s", "weights", "jitter"),
    [(2.0, ALIKE, 0.0), (0.5, ALIKE, 0.0), (1.0, ONE_MOST, 0.0), (2.0, ALIKE, 0.9)],
    ids=["often", "seldom", "one is asked most", "answers of any length"],
)
def test_mixed_traffic_needs_a_third_of_the_loads_and_keeps_the_bound(
    per_s: float, weights: dict[str, float], jitter: float
) -> None:
    requests = mixed(per_s, 900.0, weights, jitter=jitter)
    world = World(requests, BOUND_S, load_s=8.0).run()
    assert len(world.waits_s) == len(requests), "everybody is answered"
    assert 3 * len(world.loads) <= first_come(requests)
    surprise_s = jitter * max(ANSWERS_S.values())  # an answer longer than those before it
    assert max(world.waits_s) <= BOUND_S + 8.0 + surprise_s + 0.1
