"""Another model as the judge: it reads question, reference and answer, and says whether the answer is right.

By `url` any OpenAI-compatible server is asked (`{url}/chat/completions`); without one, a model of this server. The last
CORRECT or INCORRECT of its reply counts, what stands in <think> does not; a reply with neither is unparsed.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Annotated, Any, Self

import httpx
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from control.errors import BadJob, ModelNotServed
from control.ports import BatchEngine
from evals.record import MetricScore, SampleRecord
from switchyard.contract import BatchItem, BatchRequest, BatchSampling, ChatMessage

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
_TRIES = 4
_FIRST_PAUSE_S = 0.5
_TIMEOUT_S = 120.0
_AT_ONCE = 16
_WORTH_A_RETRY = {408, 409, 425, 429, 500, 502, 503, 504}


class JudgeSpec(BaseModel):
    """`model` is the judge's name at `url` (such as http://host:8000/v1), or the id of a model registered here."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    model: Annotated[str, Field(min_length=1, max_length=500)]
    url: Annotated[str, Field(pattern=r"^https?://[^\s/?#@]+[^\s?#@]*$", max_length=2000)] | None = None
    template: Annotated[str, Field(min_length=1)] = DEFAULT_TEMPLATE
    max_tokens: Annotated[int, Field(ge=1)] = 512

    @field_validator("template")
    @classmethod
    def _with_a_prediction(cls, template: str) -> str:
        names = _FIELD.findall(template)
        unknown = [name for name in names if name not in _FIELDS]
        if unknown:
            raise ValueError(f"{{{{{unknown[0]}}}}} is none of {', '.join(_FIELDS)}")
        if "prediction" not in names:
            raise ValueError("without {{prediction}} the judge does not see the answer")
        return template


class JudgeUnreachable(Exception):
    """The judge gave no reply; its text says why."""


Reply = Callable[[str], Awaitable[str]]
"""What the judge says to a prompt. Raises JudgeUnreachable."""


class Judge:
    """A context that holds its connections. A question that the judge cannot be asked is a score of 0 with an error."""

    def __init__(self, spec: JudgeSpec, reply: Reply, client: httpx.AsyncClient | None = None) -> None:
        self._spec = spec
        self._reply = reply
        self._client = client
        self._free = asyncio.Semaphore(_AT_ONCE)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            await self._client.aclose()

    async def grade(self, record: SampleRecord, answer: str) -> MetricScore:
        fields = {"question": _question(record), "target": " or ".join(record.accepted), "prediction": answer}
        prompt = _FIELD.sub(lambda match: fields[match[1]], self._spec.template)
        try:
            async with self._free:
                said = await self._reply(prompt)
        except JudgeUnreachable as error:
            return MetricScore(value=0.0, correct=False, parsed=False, error=f"judge: {error}")
        verdicts = _VERDICT.findall(_THOUGHT.sub("", said))
        if not verdicts:
            return MetricScore(value=0.0, correct=False, parsed=False, detail=said[-300:])
        correct = not verdicts[-1]
        return MetricScore(value=float(correct), correct=correct, extracted=answer, detail=said[-300:])


def judge_by_url(spec: JudgeSpec, keys: Mapping[str, SecretStr]) -> Judge:
    """`keys` are API keys by URL: a key goes to its own URL and nowhere else, redirects are not followed."""
    assert spec.url is not None
    url = spec.url.rstrip("/")
    key = next((secret for base, secret in keys.items() if base.rstrip("/") == url), None)
    headers = {"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}
    client = httpx.AsyncClient(timeout=_TIMEOUT_S, headers=headers, follow_redirects=False)

    async def reply(prompt: str) -> str:
        body = {
            "model": spec.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": spec.max_tokens,
        }
        reason = ""
        for attempt in range(_TRIES):
            if attempt:
                await asyncio.sleep(_FIRST_PAUSE_S * 2 ** (attempt - 1))
            try:
                answer = await client.post(f"{url}/chat/completions", json=body)
            except httpx.HTTPError as error:
                reason = f"{url} cannot be reached: {str(error) or type(error).__name__}"
                continue
            if answer.status_code == 200:
                return _content(answer, url)
            reason = f"{url} answered {answer.status_code}: {answer.text[:200]}"
            if answer.status_code not in _WORTH_A_RETRY:
                break
        raise JudgeUnreachable(reason)

    return Judge(spec, reply, client)


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

    return Judge(spec, reply)


def _content(answer: httpx.Response, url: str) -> str:
    try:
        body: Any = answer.json()
        return str(body["choices"][0]["message"]["content"] or "")
    except (ValueError, LookupError, TypeError) as error:
        raise JudgeUnreachable(f"{url} answered with no chat completion") from error


def _question(record: SampleRecord) -> str:
    if isinstance(record.input, str):
        return record.input
    return "\n\n".join(f"{turn.get('role')}: {turn.get('content')}" for turn in record.input)
