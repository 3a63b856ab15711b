"""One request and its answer, without doing any of it: what is asked, what came back, whether to ask again."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import httpx
from pydantic import ValidationError
from tenacity import RetryCallState, retry_if_exception, stop_after_delay, wait_random_exponential

from stepserve.client.errors import (
    BY_STATUS,
    NotStepserve,
    OtherVersion,
    Refused,
    StepserveError,
    TooMany,
    Unavailable,
    Unreachable,
)
from stepserve.client.results import Health

T = TypeVar("T")

CONNECT_TIMEOUT_S = 5.0
_BACKOFF = wait_random_exponential(multiplier=0.2, max=10.0)
_LONGEST_RETRY_AFTER_S = 60.0


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """What to ask, and how to read the answer.

    `repeatable`: asking twice does no more than asking once, so a lost answer may be asked for again. `timeout_s` is
    how long the server may be silent; None: the client's own. `is_text`: what is read is the body as it came, not JSON.
    """

    method: str
    path: str
    read: Callable[[Any], T]
    params: Mapping[str, str | int | bool] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = True
    timeout_s: float | None = None
    is_text: bool = False

    def arguments(self, default_timeout_s: float) -> dict[str, Any]:
        """For httpx's `request`."""
        silence_s = self.timeout_s if self.timeout_s is not None else default_timeout_s
        return {
            "method": self.method,
            "url": self.path,
            "params": dict(self.params) or None,
            "json": self.body,
            "content": self.content,
            "headers": dict(self.headers),
            "timeout": httpx.Timeout(silence_s, connect=min(CONNECT_TIMEOUT_S, default_timeout_s)),
        }

    def result(self, answer: httpx.Response) -> T:
        """Raises NotStepserve, Unavailable, Refused, OtherVersion."""
        content = text_of(answer) if self.is_text else content_of(answer)
        try:
            return self.read(content)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise OtherVersion(f"{self.method} {self.path}", f"{where or 'the answer'}: {first['msg']}") from error
        except (KeyError, TypeError) as error:
            raise OtherVersion(f"{self.method} {self.path}", f"{error!r} in it") from error


def as_it_is(content: Any) -> Any:
    return content


def content_of(answer: httpx.Response) -> Any:
    """The JSON of a good answer. Raises NotStepserve, Unavailable, Refused."""
    check(answer)
    try:
        return answer.json()
    except ValueError as error:
        raise _stranger(answer) from error


def text_of(answer: httpx.Response) -> str:
    """The text of a good answer. Raises NotStepserve, Unavailable, Refused."""
    check(answer)
    return answer.text


def health_of(answer: httpx.Response) -> Health:
    """A body that says its status is an answer, also with 503. Raises as Call.result."""
    if answer.status_code == 503:
        try:
            return Health.model_validate(answer.json())
        except ValueError:
            pass
    return Call("GET", "/health", Health.model_validate).result(answer)


def check(answer: httpx.Response) -> None:
    """Raises what an answer that is no success means. The answer's body must have been read."""
    if answer.is_success:
        return
    detail, code = _detail(answer)
    retry_after_s = _retry_after_s(answer)
    if answer.status_code in {502, 503, 504}:
        said = detail or f"{answer.status_code} {answer.reason_phrase}"
        raise Unavailable(answer.status_code, said, retry_after_s)
    if detail is None:
        raise _stranger(answer)
    kind = BY_STATUS.get(answer.status_code, Refused)
    raise kind(answer.status_code, detail, code, retry_after_s)


def unreachable(error: httpx.TransportError, url: str) -> Unreachable:
    """httpx's error in our words."""
    match error:
        case httpx.ConnectTimeout():
            reason = "it does not take the connection in time"
        case httpx.ReadTimeout():
            reason = "it does not answer in time"
        case httpx.PoolTimeout():
            reason = "too many requests are under way from here"
        case _:
            reason = str(error) or type(error).__name__
    unsent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
    return Unreachable(url, reason, sent=not unsent)


def retry_rules(*, repeatable: bool, retry_s: float) -> dict[str, Any]:
    """For tenacity: whom to ask again, how long, and after what pause."""

    def again(error: BaseException) -> bool:
        match error:
            case Unreachable():
                return repeatable or not error.sent
            case Unavailable():
                return repeatable
            case TooMany():
                return error.retry_after_s is not None
            case _:
                return False

    return {
        "retry": retry_if_exception(again),
        "stop": stop_after_delay(retry_s),
        "wait": _wait,
        "reraise": True,
    }


def _wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked_s = getattr(error, "retry_after_s", None) if isinstance(error, StepserveError) else None
    return max(_BACKOFF(state), min(asked_s or 0.0, _LONGEST_RETRY_AFTER_S))


def _detail(answer: httpx.Response) -> tuple[str | None, str | None]:
    """What our envelopes say: `{"detail"}` of our own routes, `{"error"}` of OpenAI's and Ollama's."""
    try:
        content = json.loads(answer.content)
    except ValueError:
        content = None
    envelope = content if isinstance(content, dict) else {}
    inner = envelope.get("error")
    if isinstance(inner, dict):
        envelope = {"detail": inner.get("message"), "code": inner.get("code")}
    detail, code = envelope.get("detail", inner), envelope.get("code")
    return None if detail is None else str(detail), code if isinstance(code, str) else None


def _retry_after_s(answer: httpx.Response) -> float | None:
    try:
        return float(answer.headers["retry-after"])
    except (KeyError, ValueError):
        return None


def _stranger(answer: httpx.Response) -> NotStepserve:
    media_type = answer.headers.get("content-type", "").partition(";")[0]
    return NotStepserve(str(answer.request.url), answer.status_code, media_type)
