"""Samples of an eval that is done, for a person to read: the worst first."""

from typing import Any

from control.ports import DoneEval, SampleQuery, Verdict
from evals.record import SampleRecord
from evals.rescore import records_of

_WORST_FIRST: tuple[Verdict, ...] = ("failed", "wrong", "right")
_SHOWN = frozenset(
    {
        "id", "index", "input", "target", "prediction", "extracted", "score", "finish_reason", "prompt_tokens",
        "completion_tokens", "latency_s", "loss", "error",
    }
)  # fmt: skip


def sample_page(done: DoneEval, wanted: SampleQuery) -> dict[str, Any]:
    """`total` is of all samples that fit, `samples` those from `offset` on. Blocks. Raises Conflict."""
    fitting = [record for record in records_of(done) if _fits(record, wanted)]
    fitting.sort(key=lambda record: (_WORST_FIRST.index(verdict_of(record)), record.index))
    page = fitting[wanted.offset : wanted.offset + wanted.limit]
    samples = [record.model_dump(include=set(_SHOWN)) | {"verdict": verdict_of(record)} for record in page]
    return {"job_id": done.job_id, "total": len(fitting), "offset": wanted.offset, "samples": samples}


def verdict_of(record: SampleRecord) -> Verdict:
    if record.error is not None:
        return "failed"
    return "right" if record.correct else "wrong"


def _fits(record: SampleRecord, wanted: SampleQuery) -> bool:
    if wanted.ids and record.id not in wanted.ids:
        return False
    if wanted.verdict is not None and verdict_of(record) != wanted.verdict:
        return False
    sought = wanted.text.casefold()
    return not sought or any(sought in text.casefold() for text in _texts(record))


def _texts(record: SampleRecord) -> list[str]:
    asked = record.input if isinstance(record.input, str) else "\n".join(str(turn["content"]) for turn in record.input)
    return [record.id, asked, record.target, *record.answers]
