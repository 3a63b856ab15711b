"""samples.jsonl: one line a sample, appended as answers come, and what a later attempt takes up again."""

import logging
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from evals.sample import Sample
from evals.scorers import Scorer
from switchyard.contract import BatchOutput

_log = logging.getLogger(__name__)


class SampleRecord(BaseModel):
    """`loss` is in nats per token of the reference; `error` set: the engine could not answer this sample."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    id: str
    index: int
    input: str | list[dict[str, Any]]
    target: str
    prediction: str
    correct: bool
    score: float
    finish_reason: str | None
    prompt_tokens: int
    completion_tokens: int
    latency_s: float
    loss: float | None
    reference_logprob: float | None
    reference_tokens: int
    model_digest: str
    error: str | None


def record_of(sample: Sample, output: BatchOutput, scorer: Scorer, model_digest: str) -> SampleRecord:
    """A log-probability that is no finite number counts as none: it has no place in a mean, nor in JSON."""
    score = scorer(output.text, sample.target) if output.error is None else None
    logprob = output.reference_logprob
    if logprob is not None and (output.reference_tokens == 0 or not math.isfinite(logprob)):
        logprob = None
    return SampleRecord(
        id=sample.id,
        index=sample.index,
        input=sample.input,
        target=sample.target,
        prediction=output.text,
        correct=score.correct if score else False,
        score=score.value if score else 0.0,
        finish_reason=output.finish_reason,
        prompt_tokens=output.prompt_tokens,
        completion_tokens=output.completion_tokens,
        latency_s=output.latency_s,
        loss=None if logprob is None else (0.0 - logprob) / output.reference_tokens,
        reference_logprob=logprob,
        reference_tokens=0 if logprob is None else output.reference_tokens,
        model_digest=model_digest,
        error=output.error,
    )


class SamplesLog:
    """One writer; every method blocks for a file operation, `append` for one short write."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("a+b")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def recover(self) -> Iterator[SampleRecord]:
        """Yields the whole records from the start, then cuts off whatever follows them (a line torn by a crash)."""
        self._file.seek(0)
        whole_bytes = 0
        for line in self._file:
            record = _whole(line)
            if record is None:
                break
            whole_bytes += len(line)
            yield record
        size_bytes = self._file.seek(0, os.SEEK_END)
        if size_bytes != whole_bytes:
            _log.warning("%s: cut off %d bytes after the last whole line", self._path, size_bytes - whole_bytes)
            self._file.truncate(whole_bytes)

    def append(self, records: Iterable[SampleRecord]) -> None:
        """One write; a process that dies later has lost nothing of it."""
        self._file.write(b"".join(record.model_dump_json().encode() + b"\n" for record in records))
        self._file.flush()

    def sync(self) -> None:
        """Returns when all that was appended would outlive a loss of power."""
        os.fsync(self._file.fileno())


def _whole(line: bytes) -> SampleRecord | None:
    if not line.endswith(b"\n"):
        return None
    try:
        return SampleRecord.model_validate_json(line)
    except ValidationError:
        return None
