"""How far one engine's answers are from another's, as their users would notice it."""

import math
from dataclasses import dataclass

VISIBLE = 0.1  # a change of a token's probability that users notice


@dataclass(frozen=True, slots=True)
class Answers:
    """`greedy`: [n_questions][n_tokens] as they were chosen; `likely`: each one's log-probability; `given`: those of
    the right answers' tokens.
    """

    greedy: list[list[int]]
    likely: list[list[float]]
    given: list[list[float]]


@dataclass(frozen=True, slots=True)
class Change:
    """`flipped`: how many greedy answers became others; `most`: by how much a token's probability changed."""

    flipped: int
    most: float

    @property
    def is_visible(self) -> bool:
        return self.most >= VISIBLE


def change(right: Answers, found: Answers) -> Change:
    """A token that was chosen and is not any longer lost at least what it was ahead by; where it was hardly likelier
    than another, two correct engines differ too.
    """
    apart = [
        abs(math.exp(mine) - math.exp(theirs))
        for row, other in zip(right.given, found.given, strict=True)
        for mine, theirs in zip(row, other, strict=True)
    ]
    most = max(apart, default=0.0)
    flipped = 0
    for tokens, others, row, other_row in zip(right.greedy, found.greedy, right.likely, found.likely, strict=True):
        for token, other, mine, theirs in zip(tokens, others, row, other_row, strict=False):
            if token != other:
                flipped += 1
                most = max(most, math.exp(mine) - 0.5)
                break
            most = max(most, abs(math.exp(mine) - math.exp(theirs)))
    return Change(flipped, most)
