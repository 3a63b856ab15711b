"""Another model as the judge: it reads question, reference and answer, and says whether the answer is right.

By `url` an OpenAI-compatible server is asked (`{url}/chat/completions`), one of those that settings name; without one,
a model of this server. The last CORRECT or INCORRECT of its reply counts, what stands in <think> does not; a reply with
neither is unparsed. Of another server's reply only the verdict is kept: it must not become a way to read whatever this
machine can reach.
"""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Annotated, Self

from pydantic import ConfigDict, Field, SecretStr, field_validator

from evals.record import MetricScore, SampleRecord
from stepserve.address import normal_url
from stepserve.contract import BatchItem, BatchRequest, BatchSampling, ChatMessage
from stepserve.jobs.errors import BadJob, Invalid, ModelNotServed
from stepserve.jobs.ports import BatchEngine
from stepserve.outbound import NoAnswer, Outbound, OutboundError
from stepserve.request_model import RequestModel

DEFAULT_TEMPLATE = """You grade answers to questions.

Question:
{{question}}

Reference answer:
{{target}}

Answer to grade:
{{prediction}}

Does the answer to grade say the same as the reference answer? Reply with one word: CORRECT or INCORRECT."""

_VERDICT = re.compile(r"\b(IN)?CORRECT\b", re.IGNORECASE)
_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
_FIELD = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z_0-9.-]*)\s*\}\}")
_FIELDS = ("question", "target", "prediction")
_MOST_FIELDS = 16
_TRIES = 4
_FIRST_PAUSE_S = 0.5
_TIMEOUT_S = 120.0  # for one whole answer
_QUESTION_TIMEOUT_S = 300.0  # for all tries
_MAX_REPLY_BYTES = 1024 * 1024
_AT_ONCE = 16
_WORTH_A_RETRY = {408, 409, 425, 429, 500, 502, 503, 504}


class JudgeSpec(RequestModel):
    """`model` is the judge's name at `url` (such as http://host:8000/v1), or the id of a model registered here."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    model: Annotated[str, Field(min_length=1, max_length=500)]
    url: Annotated[str, Field(pattern=r"^https?://[^\s/?#@]+[^\s?#@]*$", max_length=2000)] | None = None
    template: Annotated[str, Field(min_length=1, max_length=100_000)] = DEFAULT_TEMPLATE
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 512

    @field_validator("template")
    @classmethod
    def _with_a_prediction(cls, template: str) -> str:
        check_template(template, _FIELDS)
        return template


def check_template(template: str, fields: Sequence[str]) -> None:
    """Raises ValueError for one that names another field than these, or does not show the answer."""
    names = _FIELD.findall(template)
    unknown = [name for name in names if name not in fields]
    if unknown:
        raise ValueError(f"{{{{{unknown[0]}}}}} is none of {', '.join(fields)}")
    if "prediction" not in names:
        raise ValueError("without {{prediction}} the judge does not see the answer")
    if len(names) > _MOST_FIELDS:
        raise ValueError(f"{len(names)} fields are more than {_MOST_FIELDS}")


@dataclass(frozen=True, slots=True)
class AllowedJudges:
    """The servers that may be asked, by base URL: those of `judge_urls`, and those with a key in `judge_api_keys`."""

    urls: Sequence[str] = ()
    keys: Mapping[str, SecretStr] = field(default_factory=dict)

    def url_of(self, spec: JudgeSpec) -> str:
        """The URL as settings name it. Raises Invalid for one that they don't."""
        assert spec.url is not None
        try:
            wanted = normal_url(spec.url)
        except ValueError as error:
            raise Invalid(f"judge.url: {error}") from error
        if wanted not in self._normal():
            raise Invalid(
                f"judge.url: {spec.url} is not allowed: an administrator names the servers that may be asked, by base"
                " URL, in the setting judge_urls (INFERENCE_JUDGE_URLS) or, with a key, in judge_api_keys"
            )
        return wanted

    def key_of(self, url: str) -> SecretStr | None:
        return self._normal().get(url)

    def _normal(self) -> dict[str, SecretStr | None]:
        return {**dict.fromkeys(map(normal_url, self.urls)), **{normal_url(url): key for url, key in self.keys.items()}}


class JudgeUnreachable(Exception):
    """The judge gave no reply; its text says why, in our words."""


Reply = Callable[[str], Awaitable[str]]
"""What the judge says to a prompt. Raises JudgeUnreachable."""


class Judge:
    """A context that holds its connections. A question that the judge cannot be asked is a score of 0 with an error.

    `keeps_words`: whether the end of its reply is kept beside the verdict.
    """

    def __init__(self, spec: JudgeSpec, reply: Reply, outbound: Outbound | None, *, keeps_words: bool) -> None:
        self._spec = spec
        self._reply = reply
        self._outbound = outbound
        self._keeps_words = keeps_words
        self._free = asyncio.Semaphore(_AT_ONCE)

    async def __aenter__(self) -> Self:
        if self._outbound is not None:
            await self._outbound.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._outbound is not None:
            await self._outbound.__aexit__(kind, error, trace)

    async def grade(self, record: SampleRecord, answer: str) -> MetricScore:
        return await self.read(_question(record), answer, " or ".join(record.accepted))

    async def read(self, question: str, answer: str, target: str = "") -> MetricScore:
        """Raises BadJob where the judge is a model of this server and is not loaded."""
        fields = {"question": question, "target": target, "prediction": answer}
        prompt = _FIELD.sub(lambda match: fields[match[1]], self._spec.template)
        try:
            async with self._free:
                said = await self._reply(prompt)
        except JudgeUnreachable as error:
            return MetricScore(value=0.0, correct=False, parsed=False, error=f"judge: {error}")
        verdicts = [match[0].upper() for match in _VERDICT.finditer(_THOUGHT.sub("", said))]
        if not verdicts:
            detail = said[-300:] if self._keeps_words else f"no verdict in a reply of {len(said)} characters"
            return MetricScore(value=0.0, correct=False, parsed=False, detail=detail)
        correct = verdicts[-1] == "CORRECT"
        detail = said[-300:] if self._keeps_words else verdicts[-1]
        return MetricScore(value=float(correct), correct=correct, extracted=answer, detail=detail)


def judge_by_url(
    spec: JudgeSpec, allowed: AllowedJudges, timeout_s: float = _TIMEOUT_S, max_reply_bytes: int = _MAX_REPLY_BYTES
) -> Judge:
    """A key goes to its own URL and nowhere else, redirects are not followed. Raises Invalid for a URL not allowed."""
    url = allowed.url_of(spec)
    key = allowed.key_of(url)
    headers = {"authorization": f"Bearer {key.get_secret_value()}"} if key else {}
    outbound = Outbound(url, headers=headers, total_timeout_s=timeout_s, max_bytes=max_reply_bytes)

    async def reply(prompt: str) -> str:
        body = {
            "model": spec.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": spec.max_tokens,
        }
        reason = ""
        try:
            async with asyncio.timeout(_QUESTION_TIMEOUT_S):
                for attempt in range(_TRIES):
                    if attempt:
                        await asyncio.sleep(_FIRST_PAUSE_S * 2 ** (attempt - 1))
                    try:
                        answer = await outbound.post("/chat/completions", body)
                    except NoAnswer as error:
                        reason = f"{url} gave no answer: {error}"
                        continue
                    except OutboundError as error:
                        reason = f"{url} is not a judge: {error}"
                        break
                    if answer.status == 200:
                        return _content(answer.content, url)
                    reason = f"{url} answered {answer.status}"
                    if answer.status not in _WORTH_A_RETRY:
                        break
        except TimeoutError:
            reason = reason or f"{url} gave no answer within {_QUESTION_TIMEOUT_S:g} s"
        raise JudgeUnreachable(reason)

    return Judge(spec, reply, outbound, keeps_words=False)


def judge_by_id(spec: JudgeSpec, engine: BatchEngine) -> Judge:
    """A model of this server, loaded beside the one that is evaluated, or the same. Raises BadJob where it is not."""

    async def reply(prompt: str) -> str:
        request = BatchRequest(
            model=spec.model,
            digest=None,
            sampling=BatchSampling(max_tokens=spec.max_tokens),
            items=[BatchItem(messages=[ChatMessage(role="user", content=prompt)])],
        )
        try:
            output = (await engine.generate(request)).outputs[0]
        except ModelNotServed as error:
            raise BadJob(f"judge: {spec.model} is not loaded ({error}); load it, or name a url") from error
        if output.error is not None:
            raise JudgeUnreachable(output.error)
        return output.text

    return Judge(spec, reply, None, keeps_words=True)


def _content(answer: bytes, url: str) -> str:
    try:
        said = json.loads(answer)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise JudgeUnreachable(f"{url} answered with no chat completion") from None
    if said is not None and not isinstance(said, str):
        raise JudgeUnreachable(f"{url} answered with no chat completion")
    return said or ""


def _question(record: SampleRecord) -> str:
    if isinstance(record.input, str):
        return record.input
    return "\n\n".join(f"{turn.get('role')}: {turn.get('content')}" for turn in record.input)
