"""What a harness is asked to do, whichever it is."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from evals.harness.request import TaskOptions, TaskSpec
from stepserve.contract import ModelRef


@dataclass(frozen=True, slots=True)
class HarnessOrder:
    """`url` and `key` are the relay's. `folder` is where it may write: its log goes there. `max_length`: of a prompt
    with its answer, in tokens. `max_sequences`: prompts of a request.
    """

    python: Path
    task: TaskSpec
    file: Path
    options: TaskOptions
    model: ModelRef
    max_length: int
    max_sequences: int
    url: str
    key: str
    folder: Path


class HarnessProgram(Protocol):
    """How one harness is called. Pure, but for `log`."""

    def refusal(self, task: TaskSpec, options: TaskOptions) -> str | None:
        """Why it cannot do that: begins with the field's name. None where it can."""
        ...

    def command(self, order: HarnessOrder) -> list[str]: ...

    def environment(self, order: HarnessOrder) -> Mapping[str, str]:
        """What it needs in addition to what every harness gets."""
        ...

    def log(self, folder: Path) -> Path:
        """The file to take in, once it has ended well. Raises BadJob where there is none, or more than one."""
        ...
