"""Which attempts of a run were made, in as little memory after a million as after a thousand."""


class CompletedAttempts:
    """Numbers from 0, added nearly in order: all below a mark, and the few beyond it."""

    def __init__(self) -> None:
        self._mark = 0
        self._beyond: set[int] = set()

    def add(self, number: int) -> None:
        self._beyond.add(number)
        while self._mark in self._beyond:
            self._beyond.remove(self._mark)
            self._mark += 1

    def __contains__(self, number: int) -> bool:
        return number < self._mark or number in self._beyond
