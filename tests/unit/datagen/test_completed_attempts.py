import random
import sys

from datagen.completed_attempts import CompletedAttempts


def test_what_was_added_is_in_it_in_whatever_order() -> None:
    made, chance = CompletedAttempts(), random.Random(3)
    numbers = [number for number in range(500) if number % 7]
    chance.shuffle(numbers)
    for count, number in enumerate(numbers):
        assert number not in made
        made.add(number)
        assert all(each in made for each in numbers[: count + 1])
    assert not any(number in made for number in (0, 7, 497, 500, 10_000))


def test_it_does_not_grow_with_what_was_added_in_order() -> None:
    made = CompletedAttempts()
    for number in range(20_000):
        made.add(number ^ 1)  # each pair the other way round
    assert 19_999 in made
    assert 20_000 not in made
    assert sys.getsizeof(made._beyond) < 1000
