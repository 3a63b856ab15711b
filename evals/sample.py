"""One question of a dataset, whatever format its line was written in."""

from dataclasses import dataclass
from typing import Any, Literal

DatasetFormat = Literal[
    "question_answer",
    "prompt_answer",
    "messages",
    "gsm8k",
    "math",
    "mmlu",
    "arc",
    "hellaswag",
    "humaneval",
    "mbpp",
    "alpaca",
    "sharegpt",
    "input_ideal",
    "input_target",
    "prompt_completion",
]
AnswerForm = Literal["text", "hashes", "boxed", "letter", "code"]
"""Where in a prediction the answer stands: all of it, after `####`, in `\\boxed{}`, a choice's letter, a program."""

AnswerIs = Literal["index", "letter", "text"]
"""What says which choice is right: its index from 0, its letter, its text."""

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

Turn = dict[str, Any]


class BrokenLine(Exception):
    """Why a line is no sample; whoever reads the file adds its name and the line's number."""


@dataclass(frozen=True, slots=True)
class CodeTask:
    """What a program is judged by: `before` stands ahead of the model's code, `after` (the tests) behind it.

    `entry_point`: the function the tests call; an answer without it is taken as the rest of `stub`. `names`: what the
    reference solution defines, which the tests take from the model's code even where Python has something of that name.
    """

    before: str
    after: str
    stub: str = ""
    entry_point: str | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """`index` counts samples from 0; `input` is text, or the turns of a conversation that awaits an answer.

    `target` is what an answer is compared with (of a choice: its letter), `targets` all that count as right where there
    are several, `reference` the text whose loss is measured where it is longer than the target. `is_prompt`: asked as
    a plain completion, not as a chat turn. `metadata` are the line's keys that its format does not know.
    """

    id: str
    index: int
    format: DatasetFormat
    input: str | list[Turn]
    target: str
    metadata: dict[str, Any]
    targets: tuple[str, ...] = ()
    reference: str | None = None
    form: AnswerForm = "text"
    choices: tuple[str, ...] = ()
    code: CodeTask | None = None
    is_prompt: bool = False

    @property
    def accepted(self) -> tuple[str, ...]:
        """Every text that counts as right: at least one."""
        return self.targets or (self.target,)

    def cluster(self, field: str | None) -> str | None:
        """What it belongs to together with others: the text of that key of its line; None: `field` is None."""
        return None if field is None else str(self.metadata[field])

    @property
    def reference_text(self) -> str:
        """What a perfect model would have said; empty where the dataset does not say."""
        return self.target if self.reference is None else self.reference
