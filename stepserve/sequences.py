"""How many sequences an engine makes for a request: its prompts, times the answers to each."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeGuard

MOST_EMBEDDINGS = 2048  # texts in one request, as OpenAI has it
_LONGEST_NUMBER = 64  # characters


@dataclass(frozen=True, slots=True)
class Sequences:
    """`embeds`: the prompts are texts to be made vectors of, for which nothing is generated. `answers_field` is where
    their number stands.
    """

    prompts: int = 1
    answers: int = 1
    embeds: bool = False
    answers_field: str = "n"

    @property
    def total(self) -> int:
        return self.prompts * self.answers

    def too_many(self, most: int) -> tuple[str, str] | None:
        """The field that asks for too many and why they are; `most` is `limits.max_sequences_per_request`."""
        if self.embeds:
            if self.prompts <= MOST_EMBEDDINGS:
                return None
            return "input", f"holds {self.prompts} texts; at most {MOST_EMBEDDINGS} are taken at once"
        if self.total <= most:
            return None
        reason = (
            f"{self.prompts} prompts with {self.answers} answers each are {self.total} sequences; a request may have at"
            f" most {most} (setting limits.max_sequences_per_request, or engine.max_num_seqs)"
        )
        return self.answers_field if self.answers > 1 else "prompt", reason


_ONE = Sequences()


def sequences_of(
    answers: Mapping[str, object],
    prompt: object = None,
    prompt_embeds: object = None,
    input: object = None,  # noqa: A002 - the field's name
) -> Sequences:
    """Of fields as they stand in a body, whatever they are. `answers`: every field that says how many are wanted."""
    most, field = 1, "n"
    for name, value in answers.items():
        if value is not None and (number := count(value) or 1) > most:
            most, field = number, name
    if _holds_many(input):
        return Sequences(len(input), most, embeds=True, answers_field=field)
    prompts = max(1, _prompts(prompt) + _embedded(prompt_embeds))
    return _ONE if prompts == most == 1 else Sequences(prompts, most, answers_field=field)


def count(value: object) -> int | None:
    """A positive number as pydantic would read it, which takes `"5"` and `5.0` for 5; None for anything else."""
    if isinstance(value, str) and len(value) <= _LONGEST_NUMBER:
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        return None
    return int(value) or None


def _holds_many(value: object) -> TypeGuard[list[object]]:
    """A list of texts or of token lists is many prompts, one of tokens is one; so is one of messages."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], str | list)


def _prompts(prompt: object) -> int:
    if prompt is None:
        return 0
    return len(prompt) if _holds_many(prompt) else 1


def _embedded(embeds: object) -> int:
    """Prompts that come as vectors, in base64: each stands for one beside those in `prompt`."""
    return len(embeds) if isinstance(embeds, list) else int(embeds is not None)
