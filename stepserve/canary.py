"""A canary over the private API: what control orders, what the gateway tells of it, and what its judge reads."""

from typing import Annotated, Literal

from pydantic import Field

from stepserve.contract import Message, ModelRef

GATEWAY_CANARY_PATH = "/canary"
GATEWAY_CANARY_ANSWERS_PATH = "/canary/{canary_id}/answers"
CANARY_ANSWERS_WAIT_S = 15.0  # at most, for the first answer that a judge may read


class CanaryJudging(Message):
    """A judge reads a `share` of the candidate's answers, and as many of the active model's. `max_drop`: how much
    smaller the candidate's share of good answers may be; `min_answers`: with fewer pairs that were judged at its end a
    canary shows nothing.
    """

    share: Annotated[float, Field(gt=0, le=1)]
    max_drop: Annotated[float, Field(ge=0, lt=1)]
    min_answers: Annotated[int, Field(ge=1)] = 1


class CanaryOrder(Message):
    """A share of the requests for `active` goes to a candidate that is loaded beside, for `seconds`.

    `active` is the digest of the active model: when another one becomes active the canary is over. `sticky`: all
    requests of a key go the same way, or each is drawn by itself; those of one session always go the same way.
    `shadow`: the active model answers all, and the candidate is asked the same afterwards, for nobody. `min_requests`:
    with fewer at its end it shows nothing.
    """

    id: str
    candidate: ModelRef
    active: str
    share: Annotated[float, Field(gt=0, le=1)]
    seconds: Annotated[float, Field(gt=0)]
    sticky: Literal["key", "request"] = "key"
    shadow: bool = False
    min_requests: Annotated[int, Field(ge=1)] = 1
    max_error_rate: Annotated[float, Field(ge=0, le=1)]
    max_latency_ratio: Annotated[float, Field(ge=1)] | None = None
    max_tokens_ratio: Annotated[float, Field(ge=1)] | None = None
    judge: CanaryJudging | None = None


CanaryState = Literal["running", "passed", "undecided", "breached", "superseded", "lost"]
"""`undecided`: its time was over before there were `min_requests`; `superseded`: another model became active; `lost`:
whoever ordered it did not ask after it any more, or its candidate is not loaded any more; the next order begins it
again."""


class CanaryArm(Message):
    """Whole answers and server-side errors of one model. `latency_s`, `tokens`: geometric means; None: of none.

    `loss`, of a shadow: nats a token of the active model's answers, by this model; None: none could be scored.
    """

    requests: int
    errors: int
    latency_s: float | None
    tokens: float | None
    loss: float | None = None


class CanaryGuard(Message):
    """A limit on the candidate. `value`: its share of errors, its ratio to the active model, or, of the judge, by how
    much its share of good answers is smaller; None: of no answer yet.

    `evidence`, 0 to 1: how much of what it takes to call it over its limit is there; at 1 the canary ends.
    """

    guard: Literal["errors", "latency", "tokens", "judge"]
    value: float | None
    limit: float
    evidence: Annotated[float, Field(ge=0, le=1)]


class CanaryJudged(Message):
    """What the judge made of answers: of so many `pairs`, one of each model, the shares that are good; None: of none.

    `unread`: answers without a verdict, which count for nobody; `trouble`: why the last ones have none.
    """

    pairs: int
    candidate_good: float | None
    active_good: float | None
    unread: int
    trouble: str | None


class CanaryReport(Message):
    """`compared`: answers of shadows that were set beside the active model's; `same`: those of the very same text.

    `latency_ratio`, `tokens_ratio`: of geometric means, candidate to active; None: one of them has no answer yet, or,
    of the latency, it is a shadow. `guards`: those that have a limit.
    """

    id: str
    state: CanaryState
    reason: str | None
    elapsed_s: float
    candidate: CanaryArm
    active: CanaryArm
    compared: int = 0
    same: int = 0
    latency_ratio: float | None = None
    tokens_ratio: float | None = None
    guards: list[CanaryGuard] = Field(default=[])
    judge: CanaryJudged | None = None


class CanaryVerdict(Message):
    """`good` None: the judge gave none."""

    number: int
    good: bool | None


class CanaryVerdicts(Message):
    """Of the answers that were handed out last; those that are not named have none. `wanted`: how many to hand out
    next, at most. `trouble`: why the judge reads none, or gave some no verdict.
    """

    verdicts: list[CanaryVerdict] = Field(default=[])
    wanted: Annotated[int, Field(ge=0)]
    trouble: str | None = None


class CanaryAnswer(Message):
    """An answer that is to be judged, of one model or the other. Nobody keeps it."""

    number: int
    question: str
    answer: str


class CanaryAnswers(Message):
    answers: list[CanaryAnswer]
