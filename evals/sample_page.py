"""Samples of an eval that is done, for a person to read: the worst first."""

from collections.abc import Sequence
from typing import Any

from evals.error_share import failure_of
from evals.metrics import Metric, decided_by
from evals.record import SampleRecord
from evals.sample_index import SampleIndex, SampleIndices
from evals.samples_log import SAMPLES_FILE
from stepserve.jobs.errors import Conflict
from stepserve.jobs.eval_ports import DoneEval, SampleQuery, Verdict

_SHOWN = frozenset(
    {
        "id", "index", "input", "target", "prediction", "extracted", "score", "finish_reason", "prompt_tokens",
        "completion_tokens", "latency_s", "loss", "error",
    }
)  # fmt: skip


def sample_page(
    done: DoneEval, wanted: SampleQuery, indices: SampleIndices, changed_from: DoneEval | None = None
) -> dict[str, Any]:
    """`total` is of all samples that fit, `samples` those from `offset` on; `metrics` and `finish_reasons` are those
    that samples can be chosen by. Blocks. Raises Conflict, Invalid.
    """
    main = decided_by(done.config, done.result)
    index = _index_of(done, main, indices)
    other = None
    if changed_from is not None:
        other = _index_of(changed_from, decided_by(changed_from.config, changed_from.result), indices)
    fitting = index.fitting(wanted, other)
    if wanted.text:
        fitting = _with_text(index, fitting, wanted.text)
    lines = index.lines(fitting[wanted.offset : wanted.offset + wanted.limit])
    samples = [_shown(SampleRecord.model_validate_json(line), main) for line in lines]
    if other is not None:
        for sample in samples:
            sample["verdict_before"] = other.verdict_of(sample["id"])
    return {
        "job_id": done.job_id,
        "total": len(fitting),
        "offset": wanted.offset,
        "samples": samples,
        "metrics": sorted(index.scores),
        "finish_reasons": sorted(reason for reason in index.finish_reasons if reason is not None),
    }


def verdict_of(record: SampleRecord, main: Metric) -> Verdict:
    """By the decisive metric."""
    if failure_of(record, main) is not None:
        return "failed"
    return "right" if record.correct else "wrong"


def _index_of(done: DoneEval, main: Metric, indices: SampleIndices) -> SampleIndex:
    try:
        return indices.of(done.run_dir / SAMPLES_FILE, main)
    except FileNotFoundError:
        raise Conflict(f"{done.job_id} kept no samples (per_example_logging was false, or they were deleted)") from None


def _with_text(index: SampleIndex, places: Sequence[int], text: str) -> list[int]:
    """Those in whose id, question, reference or answers it is, in any case.

    A plain word is looked for in a line as it is written first, which spares most of them being read.
    """
    sought = text.casefold()
    plain = sought.encode() if sought.isascii() and sought.isprintable() and not set(sought) & set('"\\') else None
    found = []
    for place, line in zip(places, index.lines(places), strict=True):
        if plain is not None and line.isascii() and b"\\u" not in line and plain not in line.lower():
            continue
        if any(sought in each.casefold() for each in _texts(SampleRecord.model_validate_json(line))):
            found.append(place)
    return found


def _shown(record: SampleRecord, main: Metric) -> dict[str, Any]:
    shown = record.model_dump(include=set(_SHOWN))
    return shown | {"verdict": verdict_of(record, main), "error": failure_of(record, main)}


def _texts(record: SampleRecord) -> list[str]:
    asked = record.input if isinstance(record.input, str) else "\n".join(str(turn["content"]) for turn in record.input)
    return [record.id, asked, record.target, *record.answers]
