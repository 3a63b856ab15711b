"""What is taken out of texts before they are written anywhere."""

from collections.abc import Sequence

from pydantic import ValidationError

from gateway.filtering.filter import Chain, Filter, TextFilter, whole
from gateway.filtering.installed import FilterRefused
from gateway.filtering.patterns import PatternFilter, PatternOptions
from gateway.traffic.said import Prompt
from stepserve.readable import readable
from stepserve.traffic import PERSONAL, TrafficSettings, Turn

_LONGEST_MATCH_CHARS = 65_536


class Redactor:
    """Methods block for as long as the patterns take, and raise Blocked for a text that takes too long, or that a
    filter does not let through.
    """

    def __init__(self, settings: TrafficSettings, filters: Sequence[Filter] = ()) -> None:
        """`filters`: what requests went through on their way to the model. Raises FilterRefused."""
        self._filters = filters
        self._patterns: PatternFilter | None = None
        if settings.redact:
            try:
                options = PatternOptions(
                    patterns=[PERSONAL.get(each, each) for each in settings.redact],
                    replacement=settings.replacement,
                    max_chars=_LONGEST_MATCH_CHARS,
                )
            except ValidationError as error:
                raise FilterRefused(f"traffic.redact: {readable(error.errors(include_url=False))}") from error
            self._patterns = PatternFilter(options)

    def prompt(self, prompt: Prompt) -> Prompt:
        """As the model saw it, without what is redacted."""
        if isinstance(prompt, str):
            return self._asked(prompt)
        return [Turn(role=turn.role, content=self._asked(turn.content)) for turn in prompt]

    def answer(self, text: str) -> str:
        """An answer, which the filters have let through, or what somebody would have answered."""
        return text if self._patterns is None else _through([self._patterns.of_answer()], text)

    def _asked(self, text: str) -> str:
        every = [*self._filters, *([self._patterns] if self._patterns is not None else [])]
        return _through([each.of_request() for each in every], text)


def _through(filters: Sequence[TextFilter | None], text: str) -> str:
    return whole(Chain([each for each in filters if each is not None]), text)
