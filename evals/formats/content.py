"""What a format's reader makes of a line, and what a format is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from evals.sample import AnswerForm, AnswerIs, CodeTask, DatasetFormat, Turn

Fields = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Content:
    """A sample but for its place in the file; the names are those of Sample."""

    input: str | list[Turn]
    target: str
    targets: tuple[str, ...] = ()
    reference: str | None = None
    form: AnswerForm = "text"
    choices: tuple[str, ...] = ()
    code: CodeTask | None = None
    is_prompt: bool = False


@dataclass(frozen=True, slots=True)
class Format:
    """Recognised by `required` keys that are all there; where two formats share them, by `fits` too.

    `read` raises BrokenLine; so does `read_as`, of a format with choices, for a right one that is named as is said.
    `ids`: the keys that may hold the sample's id, the first one there counts.
    """

    name: DatasetFormat
    required: frozenset[str]
    optional: frozenset[str]
    read: Callable[[Fields], Content]
    fits: Callable[[Fields], bool] = lambda _: True
    ids: tuple[str, ...] = ("id",)
    read_as: Callable[[Fields, AnswerIs], Content] | None = None

    @property
    def known(self) -> frozenset[str]:
        return self.required | self.optional | frozenset(self.ids)
