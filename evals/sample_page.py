"""Samples of an eval that is done, for a person to read: the worst first."""

from typing import Any

from evals.error_share import failure_of
from evals.metrics import Metric, decided_by
from evals.record import SampleRecord
from evals.rescore import records_of
from stepserve.jobs.eval_ports import DoneEval, SampleQuery, Verdict

_WORST_FIRST: tuple[Verdict, ...] = ("failed", "wrong", "right")
_SHOWN = frozenset(
    {
        "id", "index", "input", "target", "prediction", "extracted", "score", "finish_reason", "prompt_tokens",
        "completion_tokens", "latency_s", "loss", "error",
    }
)  # fmt: skip


def sample_page(done: DoneEval, wanted: SampleQuery) -> dict[str, Any]:
    """`total` is of all samples that fit, `samples` those from `offset` on. Blocks. Raises Conflict."""
    main = decided_by(done.config, done.result)
    fitting = [record for record in records_of(done) if _fits(record, wanted, main)]
    fitting.sort(key=lambda record: (_WORST_FIRST.index(verdict_of(record, main)), record.index))
    page = fitting[wanted.offset : wanted.offset + wanted.limit]
    samples = [_shown(record, main) for record in page]
    return {"job_id": done.job_id, "total": len(fitting), "offset": wanted.offset, "samples": samples}


def verdict_of(record: SampleRecord, main: Metric) -> Verdict:
    """By the decisive metric."""
    if failure_of(record, main) is not None:
        return "failed"
    return "right" if record.correct else "wrong"


def _shown(record: SampleRecord, main: Metric) -> dict[str, Any]:
    shown = record.model_dump(include=set(_SHOWN))
    return shown | {"verdict": verdict_of(record, main), "error": failure_of(record, main)}


def _fits(record: SampleRecord, wanted: SampleQuery, main: Metric) -> bool:
    if wanted.ids and record.id not in wanted.ids:
        return False
    if wanted.verdict is not None and verdict_of(record, main) != wanted.verdict:
        return False
    sought = wanted.text.casefold()
    return not sought or any(sought in text.casefold() for text in _texts(record))


def _texts(record: SampleRecord) -> list[str]:
    asked = record.input if isinstance(record.input, str) else "\n".join(str(turn["content"]) for turn in record.input)
    return [record.id, asked, record.target, *record.answers]
