"""Values that are drawn: each from chance that its caller has seeded, so the same seed draws the same value."""

import math
import random
from statistics import NormalDist
from typing import Annotated, Any, Final, Protocol, runtime_checkable

from pydantic import Field, ValidationInfo, field_validator

from stepserve.request_model import RequestModel

_MOST_VALUES = 10_000
_LARGEST = 2**53  # every JSON reader takes these exactly
_LEAST_SHARE: Final = 1e-6
"""Of a normal distribution, which must lie between the limits."""

Finite = Annotated[float, Field(allow_inf_nan=False)]
Whole = Annotated[int, Field(ge=-_LARGEST, le=_LARGEST)]
Decimals = Annotated[int, Field(ge=0, le=15)]


@runtime_checkable
class Sampler(Protocol):
    def draw(self, chance: random.Random) -> Any:
        """A JSON value."""
        ...


class Category(RequestModel):
    """One of `values`; with `weights`, which need not sum to 1, as often as those say."""

    values: Annotated[list[Any], Field(min_length=1, max_length=_MOST_VALUES)]
    weights: list[Annotated[Finite, Field(ge=0)]] | None = None

    @field_validator("weights")
    @classmethod
    def _one_each(cls, weights: list[float] | None, info: ValidationInfo) -> list[float] | None:
        values = info.data.get("values")
        if weights is None or values is None:
            return weights
        if len(weights) != len(values):
            raise ValueError(f"there are {len(weights)} weights for {len(values)} values")
        if not 0 < sum(weights) < math.inf:
            raise ValueError("must sum to more than 0, and to a finite number")
        return weights

    def draw(self, chance: random.Random) -> Any:
        return chance.choices(self.values, self.weights)[0]


class Uniform(RequestModel):
    """A number from `low` to `high`, rounded to `decimals` where that is given."""

    low: Finite
    high: Finite
    decimals: Decimals | None = None

    @field_validator("high")
    @classmethod
    def _above(cls, high: float, info: ValidationInfo) -> float:
        low = info.data.get("low")
        if low is not None and not low < high:
            raise ValueError(f"must be above low ({low:g})")
        if low is not None and not math.isfinite(high - low):
            raise ValueError("is too far from low")
        return high

    def draw(self, chance: random.Random) -> float:
        return _rounded(self.low + (self.high - self.low) * chance.random(), self.decimals)


class Normal(RequestModel):
    """A number by the normal distribution, of which `low` and `high`, where given, cut off what lies beyond."""

    mean: Finite
    sd: Annotated[Finite, Field(gt=0)]
    low: Finite | None = None
    high: Annotated[Finite | None, Field(validate_default=True)] = None
    decimals: Decimals | None = None

    @field_validator("high")
    @classmethod
    def _leaves_something(cls, high: float | None, info: ValidationInfo) -> float | None:
        mean, sd, low = (info.data.get(name) for name in ("mean", "sd", "low"))
        if mean is None or sd is None or "low" not in info.data:
            return high
        if low is not None and high is not None and not low < high:
            raise ValueError(f"must be above low ({low:g})")
        below, above = _shares(NormalDist(mean, sd), low, high)
        if above - below < _LEAST_SHARE:
            raise ValueError("low and high leave less than a millionth of the distribution")
        return high

    def draw(self, chance: random.Random) -> float:
        distribution = NormalDist(self.mean, self.sd)
        below, above = _shares(distribution, self.low, self.high)
        share = below + (above - below) * chance.random()
        value = distribution.inv_cdf(min(max(share, 1e-12), 1 - 1e-12))
        value = value if self.low is None else max(value, self.low)
        value = value if self.high is None else min(value, self.high)
        return _rounded(value, self.decimals)


class Integers(RequestModel):
    """A whole number from `low` to `high`, both included, in steps of `step` from `low` on."""

    low: Whole
    high: Whole
    step: Annotated[int, Field(ge=1, le=_LARGEST)] = 1

    @field_validator("high")
    @classmethod
    def _not_below(cls, high: int, info: ValidationInfo) -> int:
        low = info.data.get("low")
        if low is not None and high < low:
            raise ValueError(f"must not be below low ({low})")
        return high

    def draw(self, chance: random.Random) -> int:
        return chance.randrange(self.low, self.high + 1, self.step)


def _shares(distribution: NormalDist, low: float | None, high: float | None) -> tuple[float, float]:
    return 0.0 if low is None else distribution.cdf(low), 1.0 if high is None else distribution.cdf(high)


def _rounded(value: float, decimals: int | None) -> float:
    if decimals is None:
        return value
    return round(value, decimals) if decimals else round(value)
