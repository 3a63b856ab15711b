"""From a sample to what the engine is asked: chat turns or a plain prompt, with examples, and what is scored after it.

| asked as | what |
|---|---|
| `chat` | a user's turn; examples are turns before it |
| `completion` | one text; examples stand before it, a blank line apart |
| `messages` | the dataset's own turns, as they are |

A template is text with `{{field}}` for the line's fields, and `{{question}}`, `{{choices}}` (lettered lines), whatever
the format calls them. There is no other syntax: nothing of a template is evaluated.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from evals.errors import EvalError
from evals.sample import LETTERS, DatasetFormat, Sample
from stepserve.contract import BatchItem, ChatMessage, Continuations

Style = Literal["chat", "completion", "messages"]

_FIELD = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z_0-9.-]*)\s*\}\}")  # what may have been meant as one
_CONVERSATIONS: frozenset[DatasetFormat] = frozenset({"messages", "sharegpt"})
_PROGRAM_ENDS = ("\nclass ", "\ndef ", "\nif ", "\nprint(")
_LETTER_REQUEST = "Answer with the letter of the right choice."
_CODE_REQUEST = "Complete this Python function. Answer with the whole function in a code block."


MOST_CHARACTERS = 8 * 1024**2  # of one prompt: as many as one line of a dataset may have


class UnknownField(Exception):
    """A template names a field that a sample has not."""


class PromptTooLong(EvalError):
    def __init__(self) -> None:
        super().__init__(
            f"a prompt has more than {MOST_CHARACTERS} characters (question, template and examples together)"
        )


@dataclass(frozen=True, slots=True)
class Prompter:
    """`as_chat` None: as the format is asked by itself. `shots`: worked examples; a sample never sees itself."""

    system_prompt: str | None = None
    template: str | None = None
    as_chat: bool | None = None
    shots: Sequence[Sample] = ()
    num_fewshot: int = 0

    def style(self, sample: Sample) -> Style:
        if isinstance(sample.input, list):
            return "messages"
        as_chat = not sample.is_prompt if self.as_chat is None else self.as_chat
        return "chat" if as_chat else "completion"

    def stop(self, sample: Sample) -> tuple[str, ...]:
        """Where a plain completion of this format ends when the request names no stop."""
        if self.style(sample) != "completion" or self.template is not None:
            return ()
        if sample.code is not None:
            return _PROGRAM_ENDS
        return () if sample.is_prompt else ("\nQuestion:",)

    def item(self, sample: Sample, *, generate: bool = True, continue_with_choices: bool = False) -> BatchItem:
        """`generate` false: nothing but the choices' log-probabilities is asked for.

        Raises UnknownField, PromptTooLong.
        """
        continuations = self._continuations(sample) if continue_with_choices else None
        if not generate:
            return BatchItem(continuations=continuations, generate=False)
        reference = sample.reference_text or None
        if isinstance(sample.input, list):
            turns = [ChatMessage.model_validate(turn) for turn in sample.input]
            return BatchItem(messages=turns, reference=reference, continuations=continuations)
        if self.style(sample) == "chat":
            turns = self._turns(sample, choices_as_text=False)
            return BatchItem(messages=turns, reference=reference, continuations=continuations)
        prompt = self._text(sample, choices_as_text=False)
        if reference is not None:
            reference = self._gap(sample, prompt) + reference
        return BatchItem(prompt=prompt, reference=reference, continuations=continuations)

    def continues_with(self, sample: Sample) -> Literal["letters", "texts"]:
        """What a choice's log-probability is of: its letter where the prompt shows the choices, else its text."""
        if self.template is None:
            return "letters" if sample.format == "mmlu" else "texts"
        return "letters" if "choices" in _FIELD.findall(self.template) else "texts"

    def _continuations(self, sample: Sample) -> Continuations:
        letters = self.continues_with(sample) == "letters"
        texts = list(LETTERS[: len(sample.choices)]) if letters else list(sample.choices)
        if self.as_chat:
            return Continuations(messages=self._turns(sample, choices_as_text=not letters), texts=texts)
        prompt = self._text(sample, choices_as_text=not letters)
        gap = self._gap(sample, prompt)
        return Continuations(prompt=prompt, texts=[gap + text for text in texts])

    def _turns(self, sample: Sample, *, choices_as_text: bool) -> list[ChatMessage]:
        turns = [] if self.system_prompt is None else [ChatMessage(role="system", content=self.system_prompt)]
        length = 0
        for shot in self._shots_of(sample):
            turns.append(ChatMessage(role="user", content=self._user_turn(shot, choices_as_text)))
            turns.append(ChatMessage(role="assistant", content=_worked(shot, choices_as_text)))
            length = _bounded(length + sum(len(turn.content) for turn in turns[-2:]))
        turns.append(ChatMessage(role="user", content=self._user_turn(sample, choices_as_text)))
        return turns

    def _text(self, sample: Sample, *, choices_as_text: bool) -> str:
        parts = [] if self.system_prompt is None else [self.system_prompt]
        length = 0
        for shot in self._shots_of(sample):
            prompt = self._plain(shot, choices_as_text)
            parts.append(prompt + self._gap(shot, prompt) + _worked(shot, choices_as_text))
            length = _bounded(length + len(parts[-1]))
        parts.append(self._plain(sample, choices_as_text))
        return "\n\n".join(parts)

    def _shots_of(self, sample: Sample) -> list[Sample]:
        others = (shot for shot in self.shots if shot.input != sample.input)
        return [shot for shot, _ in zip(others, range(self.num_fewshot), strict=False)]

    def _user_turn(self, sample: Sample, choices_as_text: bool) -> str:
        if self.template is not None:
            return render(self.template, sample)
        if sample.form == "code" and sample.is_prompt:
            return f"{_CODE_REQUEST}\n\n```python\n{sample.input}\n```"
        if sample.choices and not choices_as_text:
            return f"{sample.input}\n\n{_lettered(sample)}\n\n{_LETTER_REQUEST}"
        return str(sample.input)

    def _plain(self, sample: Sample, choices_as_text: bool) -> str:
        if self.template is not None:
            return render(self.template, sample)
        if sample.is_prompt or sample.format == "hellaswag":
            return str(sample.input)
        if sample.choices and not choices_as_text:
            return f"{sample.input}\n{_lettered(sample)}\nAnswer:"
        return f"Question: {sample.input}\nAnswer:"

    def _gap(self, sample: Sample, prompt: str) -> str:
        """A dataset's own prompts say themselves where the answer begins."""
        return "" if (sample.is_prompt and self.template is None) or prompt[-1:].isspace() else " "


def render(template: str, sample: Sample) -> str:
    """Raises UnknownField, PromptTooLong."""
    length = len(template)

    def value(match: re.Match[str]) -> str:
        nonlocal length
        field = _field(sample, match[1])
        length = _bounded(length + len(field))
        return field

    return _FIELD.sub(value, template)


def _bounded(length: int) -> int:
    if length > MOST_CHARACTERS:
        raise PromptTooLong
    return length


def _field(sample: Sample, name: str) -> str:
    if name in {"question", "problem", "prompt", "input", "instruction", "ctx", "text"}:
        return str(sample.input)
    if name in {"choices", "endings"} and sample.choices:
        return _lettered(sample)
    if name in sample.metadata and isinstance(sample.metadata[name], str | int | float):
        return str(sample.metadata[name])
    there = ["question", *(["choices"] if sample.choices else []), *sample.metadata]
    raise UnknownField(f"{{{{{name}}}}} is not a field with text; known are {', '.join(there[:20])}")


def _lettered(sample: Sample) -> str:
    return "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, sample.choices, strict=False))


def _worked(shot: Sample, choices_as_text: bool) -> str:
    if shot.choices and choices_as_text:
        return shot.choices[LETTERS.index(shot.target)]
    return shot.reference_text
