"""The canary that a promotion may be asked to run before the switch."""

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from stepserve.request_model import RequestModel

_LONGEST_S = 24 * 3600.0
_LEAST_REQUESTS = 20  # what the gateway needs before it judges latency and length


class CanaryRequest(RequestModel):
    """A share of the requests for `active` is answered by the candidate for `seconds`; over a limit it is back at once.

    `sticky`: all requests of a key go the same way, or each is drawn by itself; those that name a session
    (`X-Session-ID`) always go the same way. `shadow`: the active model answers all of them, the candidate is asked the
    same afterwards, and nobody gets its answer. `min_requests`: a candidate that was asked less often by the end has
    shown nothing, and is not switched to; where a ratio is limited the active model needs as many.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    share: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    seconds: Annotated[float, Field(ge=1, le=_LONGEST_S)] = 600.0
    min_requests: Annotated[int, Field(ge=1, le=1_000_000)] = _LEAST_REQUESTS
    max_error_rate: Annotated[float, Field(ge=0, lt=1)] = 0.01
    max_latency_ratio: Annotated[float, Field(ge=1, le=1000)] | None = None
    max_tokens_ratio: Annotated[float, Field(ge=1, le=1000)] | None = None
    sticky: Literal["key", "request"] = "key"
    shadow: bool = False

    @model_validator(mode="after")
    def _a_shadow_has_no_latency(self) -> Self:
        if self.shadow and self.max_latency_ratio is not None:
            raise ValueError("max_latency_ratio: a shadow is asked below interactive traffic; its latency says nothing")
        return self
