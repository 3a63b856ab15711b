"""What a verifier is, and where verifiers come from.

One can be installed: an entry point in the group `stepserve.verifiers`, its name that of the verifier, its object a
class as `Verifier` says. A job asks for it by `"verifiers": [{"name": "<name>", …}]`, the rest being its own settings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar, Final, Protocol, Self

from pydantic import ConfigDict, ValidationError

from datagen.asking import Asking
from datagen.errors import ConfigRefused, Refused
from datagen.strategy import Sources
from stepserve.request_model import RequestModel

GROUP: Final = "stepserve.verifiers"
FIELD: Final = "verifiers"
BUILT_IN: Final[Mapping[str, str]] = {
    "numeric": "datagen.verifiers.numeric:Numeric",
    "math": "datagen.verifiers.math:Math",
    "regex": "datagen.verifiers.regex:Regex",
    "json_schema": "datagen.verifiers.json_schema:JsonSchema",
    "unit_tests": "datagen.verifiers.unit_tests:UnitTests",
    "second_model": "datagen.verifiers.second_model:SecondModel",
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """`row`: what the question was made from, where the strategy has rows. `answer`: the final one, where known."""

    question: str
    reply: str
    answer: str = ""
    row: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """`score` lies in [0, 1]; `why` it did not pass is for a person; `reason` is what a rejection is counted by."""

    passed: bool
    score: float = 1.0
    why: str = ""
    reason: str = "not_verified"


class VerifierConfig(RequestModel):
    """A verifier's own settings; unknown ones are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Verifier(Protocol):
    """Says whether an answer can be believed. One object serves one run; candidates are verified side by side.

    One that is an asynchronous context manager too is entered before the first attempt and left after the last.
    """

    config_model: ClassVar[type[VerifierConfig]]

    @classmethod
    def open(cls, config: Any, sources: Sources) -> Self:
        """`config` is a `config_model`. Blocks; raises Refused naming its field."""
        ...

    @property
    def models(self) -> Sequence[str]:
        """Other registered models that it asks (`Asking.model`): they are loaded beside the job's own."""
        ...

    async def verify(self, candidate: Candidate, ask: Asking) -> Verdict:
        """Ends in bounded time; what it raises fails the job."""
        ...


def verifier_of(settings: Mapping[str, Any], number: int, sources: Sources) -> tuple[str, Verifier]:
    """The name and the verifier of one entry of `config.verifiers`. Blocks; raises Refused, ConfigRefused."""
    name = settings.get("name")
    installed = {point.name: point for point in entry_points(group=GROUP)}
    if not isinstance(name, str) or name not in {*BUILT_IN, *installed}:
        known = ", ".join([*BUILT_IN, *sorted(installed)])
        raise Refused(f"{FIELD}.{number}.name", f"{str(name)[:100]!r} is not a verifier; known are {known}")
    point = EntryPoint(name, BUILT_IN[name], GROUP) if name in BUILT_IN else installed[name]
    loaded: type[Verifier] = point.load()
    own = {key: value for key, value in settings.items() if key != "name"}
    try:
        return name, loaded.open(loaded.config_model.model_validate(own), sources)
    except ValidationError as error:
        raise ConfigRefused(error, FIELD, str(number)) from error
    except Refused as error:
        raise Refused(f"{FIELD}.{number}.{error.field}", error.reason) from error
