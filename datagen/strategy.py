"""What a strategy is, and where strategies come from.

One can be installed: an entry point in the group `stepserve.datagen_strategies`, its name that of the strategy, its
object a class as `Strategy` says. It is then asked for by `"strategy": "<name>"`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

from datagen.asking import Asking
from datagen.config import GenerationConfig
from datagen.errors import DataGenError, Refused
from datagen.places import PRIVATE
from datagen.records import Outcome
from datagen.rendering import LIMIT_S

GROUP = "stepserve.datagen_strategies"
BUILT_IN: Mapping[str, str] = {
    "self_instruct": "datagen.strategies.self_instruct:SelfInstruct",
    "fix_eval_failures": "datagen.strategies.fix_eval_failures:FixEvalFailures",
    "custom": "datagen.strategies.custom:Custom",
    "best_of_n": "datagen.strategies.best_of_n:BestOfN",
    "pipeline": "datagen.strategies.pipeline:Pipeline",
}


class UnknownStrategy(DataGenError):
    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f"strategy: there is no {name!r}; known are {', '.join(known)}")


@dataclass(frozen=True, slots=True)
class Sources:
    """Where a strategy may read, and how long a row may keep a template or a schema busy, and an installed verifier.

    `new`: the job is being made, so what it is asked to do is tried on its first row.
    """

    base_dir: Path
    datasets_dir: Path
    runs_dir: Path
    models_dir: Path
    render_limit_s: float = LIMIT_S
    verify_limit_s: float = 300.0
    new: bool = True

    def file(self, field: str, name: str) -> Path:
        """A JSONL file inside the base directory that a config names; none of the server's own. Raises Refused."""
        root = self.base_dir.resolve()
        if not name.endswith(".jsonl"):
            raise Refused(field, f"{name!r} is not a .jsonl file")
        try:
            path = (root / name).resolve()
            if not path.is_relative_to(root):
                raise Refused(field, f"{name!r} is not inside the base directory")
            if path.relative_to(root).parts[0].casefold() in PRIVATE or path.is_relative_to(self.models_dir.resolve()):
                raise Refused(field, f"{name!r} belongs to the server")
            if path.is_file():
                return path
        except (OSError, ValueError, RuntimeError):  # a NUL, a name too long, a circle of links
            pass
        raise Refused(field, f"there is no file {name!r} in the base directory")


class Strategy(Protocol):
    """How prompts become drafts. One object serves one run; attempts run side by side.

    `similarity_limit`: a question nearer than that to a known one is not new. `same_numbers`: with other numbers in it
    a question is another one, however alike the words are. `digest` is that of everything that was read, so that a run
    which goes on later knows whether it still has the same in its hands. One that is an asynchronous context manager
    too is entered before its attempts and left after them.
    """

    config_model: ClassVar[type[GenerationConfig]]
    similarity_limit: ClassVar[float]
    same_numbers: ClassVar[bool]
    digest: str

    @classmethod
    def open(cls, config: Any, sources: Sources) -> Self:
        """Reads what it needs; `config` is a `config_model`. Blocks; raises DataGenError naming the field."""
        ...

    @property
    def attempts(self) -> int | None:
        """How many different ones there are; None: there is no end."""
        ...

    async def attempt(self, number: int, ask: Asking) -> Outcome:
        """The attempt of that number, from 0.

        After a crash it may be made again: with the same prompts and seeds, as far as what was learnt does not matter.
        """
        ...

    def learn(self, question: str, tags: Sequence[str], /) -> None:
        """Told of each accepted example, also of those of earlier runs of the job."""
        ...

    def spares(self) -> frozenset[str]:
        """Texts that decontamination must let pass, though a dataset has them."""
        ...

    def facts(self) -> dict[str, Any]:
        """For the result: what it worked on (JSON values)."""
        ...


@runtime_checkable
class Consulting(Protocol):
    """A strategy that asks other models than the job's own (`Asking.model`): they are loaded beside it."""

    @property
    def asked_models(self) -> Mapping[str, str]:
        """The ids of registered ones, with the field of the config that names each."""
        ...


def strategy_of(name: str) -> type[Strategy]:
    """Raises UnknownStrategy."""
    installed = {point.name: point for point in entry_points(group=GROUP)}
    if name in BUILT_IN:
        point = EntryPoint(name, BUILT_IN[name], GROUP)
    elif name in installed:
        point = installed[name]
    else:
        raise UnknownStrategy(name, [*BUILT_IN, *sorted(installed)])
    loaded: type[Strategy] = point.load()
    return loaded
