"""regex: the reply has, or has not, what a pattern describes."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Self

import regex
from pydantic import Field

from datagen.asking import Asking
from datagen.errors import Refused
from datagen.strategy import Sources
from datagen.verifier import Candidate, Verdict, VerifierConfig

LIMIT_S = 0.5


class RegexConfig(VerifierConfig):
    """`match`: somewhere in the reply, the whole of it, or nowhere in it."""

    pattern: Annotated[str, Field(min_length=1, max_length=2000)]
    match: Literal["anywhere", "whole", "nowhere"] = "anywhere"


class Regex:
    config_model: ClassVar[type[VerifierConfig]] = RegexConfig
    models: Sequence[str] = ()

    def __init__(self, config: RegexConfig) -> None:
        self._config = config
        self._turn = asyncio.Semaphore(1)  # a pattern that takes long must not take every thread
        try:
            self._pattern = regex.compile(config.pattern)
        except regex.error as error:
            raise Refused("pattern", f"is not a regular expression: {error}") from error

    @classmethod
    def open(cls, config: RegexConfig, sources: Sources) -> Self:
        return cls(config)

    async def verify(self, candidate: Candidate, ask: Asking) -> Verdict:
        try:
            async with self._turn:
                found = await asyncio.to_thread(self._is_found, candidate.reply.strip())
        except TimeoutError:
            return Verdict(passed=False, score=0.0, why=f"the pattern takes longer than {LIMIT_S:g} s")
        if found == (self._config.match != "nowhere"):
            return Verdict(passed=True)
        return Verdict(passed=False, score=0.0, why="the pattern is there" if found else "the pattern is not there")

    def _is_found(self, reply: str) -> bool:
        """Lets other threads run meanwhile. Raises TimeoutError."""
        look = self._pattern.fullmatch if self._config.match == "whole" else self._pattern.search
        return look(reply, timeout=LIMIT_S, concurrent=True) is not None
