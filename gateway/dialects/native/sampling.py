"""The sampling parameters that every native route takes, in both vocabularies, and what they are on `/v1`."""

from typing import Annotated, Any, ClassVar, Self

from pydantic import ConfigDict, Field, model_validator

from gateway.dialects.call import Json
from stepserve.request_model import RequestModel

Count = Annotated[int, Field(ge=1)]
_MAX_INT64 = 2**63 - 1  # what an engine can be told


class Sampling(RequestModel):
    """A class's `DEFAULTS` hold where neither the request nor an alias's preset says otherwise."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    DEFAULTS: ClassVar[Json] = {}

    model: str | None = None
    model_id: str | None = None
    max_tokens: Count | None = None
    max_new_tokens: Count | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=_MAX_INT64)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    do_sample: bool | None = None
    seed: Annotated[int, Field(ge=-_MAX_INT64 - 1, le=_MAX_INT64)] | None = None
    stop: Annotated[str, Field(min_length=1)] | list[Annotated[str, Field(min_length=1)]] | None = None

    @model_validator(mode="after")
    def _one_meaning(self) -> Self:
        _not_both(self.model, self.model_id, "model", "model_id")
        _not_both(self.max_tokens, self.max_new_tokens, "max_tokens", "max_new_tokens")
        return self

    @property
    def model_name(self) -> str | None:
        return self.model or self.model_id

    def asked(self) -> Json:
        """What the request itself says, in vLLM's terms. `do_sample: false` is greedy whatever the temperature,
        as in transformers.
        """
        names = (
            "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty",
            "seed", "stop",
        )  # fmt: skip
        given: dict[str, Any] = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if self.do_sample is False:
            given["temperature"] = 0.0
        max_tokens = self.max_tokens or self.max_new_tokens
        if max_tokens is not None:
            given["max_tokens"] = max_tokens
        return given


def _not_both(one: object, other: object, name: str, other_name: str) -> None:
    if one is not None and other is not None and one != other:
        raise ValueError(f"{name} and {other_name} are two names of one thing and differ")
