"""Splits the thinking of a model from its answer, for engines that were started without a reasoning parser."""

from typing import Literal, NamedTuple

OPENS, CLOSES = "<think>", "</think>"


class Parts(NamedTuple):
    reasoning: str
    content: str


class ThinkingSplit:
    """Fed with the text as it comes; what may be the beginning of a tag is held back until it is clear.

    Text is thinking from `<think>` at the very beginning, or from the start where the prompt ended with that tag
    (`opened`), up to `</think>`. Line breaks around the tags belong to neither part.
    """

    def __init__(self, *, opened: bool = False) -> None:
        self._state: Literal["begins", "thinks", "answers"] = "thinks" if opened else "begins"
        self._held = ""
        self._fresh = True  # nothing of the present part was given out

    def feed(self, text: str) -> Parts:
        self._held += text
        reasoning = content = ""
        if self._state == "begins":
            start = self._held.lstrip()
            if start.startswith(OPENS):
                self._state, self._held = "thinks", start[len(OPENS) :]
            elif OPENS.startswith(start):
                return Parts("", "")
            else:
                self._state, self._fresh = "answers", False
        if self._state == "thinks":
            before, tag, after = self._held.partition(CLOSES)
            if tag:
                reasoning = self._trimmed(before).rstrip("\n")
                self._state, self._held, self._fresh = "answers", after, True
            else:
                keep = _tail_that_may_be_a_tag(before)
                reasoning, self._held = self._trimmed(before[: len(before) - keep]), before[len(before) - keep :]
        if self._state == "answers":
            content, self._held = self._trimmed(self._held), ""
        return Parts(reasoning, content)

    def close(self) -> Parts:
        """What was held back when the text ended."""
        held, self._held = self._held, ""
        return Parts(held.rstrip("\n"), "") if self._state == "thinks" else Parts("", held)

    def _trimmed(self, text: str) -> str:
        if self._fresh:
            text = text.lstrip("\n")
            self._fresh = not text
        return text


def split(text: str, *, opened: bool = False) -> Parts:
    """The whole text at once. A text that only closes its thinking was opened by the prompt."""
    splitting = ThinkingSplit(opened=opened or (CLOSES in text and not text.lstrip().startswith(OPENS)))
    first, last = splitting.feed(text), splitting.close()
    return Parts(first.reasoning + last.reasoning, first.content + last.content)


def _tail_that_may_be_a_tag(text: str) -> int:
    """How many characters at the end may be the beginning of `</think>`, with the line breaks before it."""
    for length in range(min(len(text), len(CLOSES) - 1), 0, -1):
        if CLOSES.startswith(text[-length:]):
            break
    else:
        length = 0
    body = text[: len(text) - length]
    return length + len(body) - len(body.rstrip("\n"))
