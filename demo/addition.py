"""Two-digit additions: the one thing the demo model knows, split into what it trains on and what it is asked."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

SMALLEST, LARGEST = 10, 99
HELD_OUT_COUNT = 600
EXAM_COUNT = 600
_SPLIT_SEED = 20250101


@dataclass(frozen=True, slots=True)
class Addition:
    a: int
    b: int

    @property
    def question(self) -> str:
        return f"What is {self.a}+{self.b}?"

    @property
    def answer(self) -> str:
        return str(self.a + self.b)


def split() -> tuple[list[Addition], list[Addition]]:
    """All 8,100 additions of two two-digit numbers as (training, held out); the same split on every call."""
    additions = [Addition(a, b) for a in range(SMALLEST, LARGEST + 1) for b in range(SMALLEST, LARGEST + 1)]
    random.Random(_SPLIT_SEED).shuffle(additions)
    return additions[HELD_OUT_COUNT:], additions[:HELD_OUT_COUNT]


def exam() -> list[Addition]:
    """Some of the training ones: a model may be examined on them, and more of the kind be made of what it got wrong,
    while those held out stay sealed.
    """
    return split()[0][:EXAM_COUNT]


def batches(additions: list[Addition], batch_size: int, seed: int) -> Iterator[list[Addition]]:
    """Endless batches drawn with replacement, in an order that `seed` alone decides."""
    rng = random.Random(seed)
    while True:
        yield rng.choices(additions, k=batch_size)
