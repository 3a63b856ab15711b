"""What a filter is. Pure.

Another package's filter is an entry point in the group `stepserve.filters` whose object takes the options of the
settings (a dictionary) and gives a `Filter`. It runs in the event loop, between two tokens of everybody's: it must be
quick, and ask nobody.
"""

from typing import Protocol


class Blocked(Exception):
    """The text may not be asked or answered. The reason is told to the client."""


class TextFilter(Protocol):
    """One text on its way. What `feed` and `end` give, one behind the other, is what arrives. Both raise Blocked."""

    def feed(self, text: str) -> str:
        """What of the text so far may go on now; the rest is held back, until more comes or `end`."""
        ...

    def end(self) -> str: ...


class Filter(Protocol):
    """Gives each text a filter of its own; None: such texts are not looked at."""

    def of_request(self) -> TextFilter | None: ...

    def of_answer(self) -> TextFilter | None: ...


class Chain:
    """Several filters, each looking at what the one before it lets through."""

    def __init__(self, filters: list[TextFilter]) -> None:
        self._filters = filters

    def feed(self, text: str) -> str:
        for each in self._filters:
            text = each.feed(text)
        return text

    def end(self) -> str:
        rest = ""
        for each in self._filters:
            rest = each.feed(rest) + each.end()
        return rest


def whole(text_filter: TextFilter, text: str) -> str:
    return text_filter.feed(text) + text_filter.end()
