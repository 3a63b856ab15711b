"""numeric: the reply's final number is the row's, within a tolerance."""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Annotated, ClassVar, Self

from pydantic import Field

from datagen.answers import final_answer
from datagen.asking import Asking
from datagen.strategy import Sources
from datagen.verifier import Candidate, Verdict, VerifierConfig

_Tolerance = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class NumericConfig(VerifierConfig):
    """The row's `answer_field` has the number; a reply passes within `absolute`, or within `relative` of it."""

    answer_field: Annotated[str, Field(min_length=1, max_length=200)] = "answer"
    absolute: _Tolerance = 0.0
    relative: _Tolerance = 1e-9


class Numeric:
    config_model: ClassVar[type[VerifierConfig]] = NumericConfig
    models: Sequence[str] = ()

    def __init__(self, config: NumericConfig) -> None:
        self._config = config

    @classmethod
    def open(cls, config: NumericConfig, sources: Sources) -> Self:
        return cls(config)

    async def verify(self, candidate: Candidate, ask: Asking) -> Verdict:
        field = self._config.answer_field
        wanted = number_of(str(candidate.row.get(field, "")))
        if wanted is None:
            return Verdict(passed=False, score=0.0, why=f"the row has no number in {field!r}")
        said = final_answer(candidate.reply)
        found = None if said is None else number_of(said)
        if found is None:
            return Verdict(passed=False, score=0.0, why="the answer has no number")
        if math.isclose(found, wanted, rel_tol=self._config.relative, abs_tol=self._config.absolute):
            return Verdict(passed=True)
        return Verdict(passed=False, score=0.0, why=f"{found:g} is not {wanted:g}")


def number_of(text: str) -> float | None:
    """Of a plain number, a fraction or one with thousands separators; None of anything else."""
    try:
        plain = text.strip().rstrip(".").replace(",", "").replace("$", "")
        value = float(Fraction(plain)) if "/" in plain else float(plain)  # Fraction works 1e9999999 out, for minutes
    except (ValueError, ZeroDivisionError, OverflowError):
        return None
    return value if math.isfinite(value) else None
