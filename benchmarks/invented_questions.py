"""Questions that are made up, as many as one likes, the same ones at each run.

One in ten is an earlier one again, one in ten an earlier one with a word exchanged; half of the others differ from
their like in numbers alone. Words are drawn by Zipf's law.
"""

import random
from functools import cache

_VOCABULARY = 20_000
_SYLLABLES = [first + second for first in "bdfgklmnprstv" for second in "aeiou"]
_SHAPES = 400


def word(rank: int) -> str:
    """Of three syllables; the commonest have one."""
    count = len(_SYLLABLES)
    return "".join(_SYLLABLES[(rank // count**place) % count] for place in range(1 + (rank >= 20) + (rank >= 500)))


def drawn_words(chance: random.Random, count: int) -> list[str]:
    """By Zipf's law."""
    return [word(int(_VOCABULARY ** chance.random())) for _ in range(count)]


@cache
def shape(number: int) -> list[str]:
    chance = random.Random(f"shape {number}")
    text = drawn_words(chance, chance.randint(12, 40))
    for place in chance.sample(range(len(text)), 3):
        text[place] = "#"
    return text


def question(seed: int, number: int) -> str:
    chance = random.Random(f"{seed} {number}")
    kind = chance.random()
    if number and kind < 0.1:
        return question(seed, chance.randrange(number))
    if number and kind < 0.2:
        text = question(seed, chance.randrange(number)).split()
        text[chance.randrange(len(text))] = drawn_words(chance, 1)[0]
        return " ".join(text)
    if kind < 0.6:
        filled = shape(chance.randrange(_SHAPES))
        return " ".join(str(chance.randint(2, 9999)) if part == "#" else part for part in filled)
    return " ".join(drawn_words(chance, chance.randint(8, 40)))
