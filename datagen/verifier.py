"""What a verifier is, and where verifiers come from.

One can be installed: an entry point in the group `stepserve.verifiers`, its name that of the verifier, its object a
class as `Verifier` says. A job asks for it by `"verifiers": [{"name": "<name>", …}]`, the rest being its own settings.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar, Final, Protocol, Self

from pydantic import ConfigDict, ValidationError

from datagen.asking import Asking
from datagen.errors import ConfigRefused, Refused
from datagen.strategy import Sources
from stepserve.request_model import RequestModel
from stepserve.setting_sources import did_you_mean

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

JUDGE: Final = "judge"
BOUNDED: Final = frozenset({*BUILT_IN, JUDGE})
"""End by themselves in bounded time, however many wait their turn."""


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
        """Ends in bounded time (`verdict_of`); what it raises fails the job."""
        ...


class Verifying(Protocol):
    """What verifiers and the judge have in common."""

    async def verify(self, candidate: Candidate, ask: Asking) -> Verdict: ...


async def verdict_of(name: str, verifier: Verifying, candidate: Candidate, ask: Asking, limit_s: float) -> Verdict:
    """Of an installed verifier that hangs: that the answer did not pass. Those that come along bound themselves.

    Time in which a model is asked does not count, however long the engine takes. One that holds up the event loop is
    not helped by this.
    """
    if name in BOUNDED:
        return await verifier.verify(candidate, ask)
    verifying = asyncio.ensure_future(verifier.verify(candidate, ask))
    try:
        while not (await asyncio.wait({verifying}, timeout=limit_s))[0]:
            if not ask.waiting:
                why = f"no verdict within {limit_s:g} s"
                return Verdict(passed=False, score=0.0, why=why, reason="verifier_hung")
        return verifying.result()
    finally:
        verifying.cancel()


def verifier_of(settings: Mapping[str, Any], number: int, sources: Sources) -> tuple[str, Verifier]:
    """The name and the verifier of one entry of `config.verifiers`. Blocks; raises Refused, ConfigRefused."""
    place = f"{FIELD}.{number}"
    named = verifier_class(settings.get("name"), f"{place}.name")
    own = {key: value for key, value in settings.items() if key != "name"}
    return str(settings["name"]), opened_verifier(named, verifier_config(named, own, place), place, sources)


def verifier_class(name: object, field_: str) -> type[Verifier]:
    """`field_` is what names it. Raises Refused."""
    installed = {point.name: point for point in entry_points(group=GROUP)}
    known = dict.fromkeys([*BUILT_IN, *sorted(installed)])
    if not isinstance(name, str) or name not in known:
        shown = str(name)[:100]
        there_are = f"known are {', '.join(known)}{did_you_mean(shown, known)}"
        raise Refused(field_, f"{shown!r} is not a verifier; {there_are}")
    point = EntryPoint(name, BUILT_IN[name], GROUP) if name in BUILT_IN else installed[name]
    loaded: type[Verifier] = point.load()
    return loaded


def verifier_config(named: type[Verifier], settings: Mapping[str, Any], place: str) -> VerifierConfig:
    """Raises ConfigRefused naming the field below `place`."""
    try:
        return named.config_model.model_validate(settings)
    except ValidationError as error:
        raise ConfigRefused(error, place) from error


def opened_verifier(named: type[Verifier], config: VerifierConfig, place: str, sources: Sources) -> Verifier:
    """Blocks; raises Refused naming the field below `place`."""
    try:
        return named.open(config, sources)
    except Refused as error:
        raise Refused(f"{place}.{error.field}", error.reason) from error
