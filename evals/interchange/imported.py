"""A run of another harness as one of ours: the records, config and result that an eval job of ours would have."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

from evals.datasets import DatasetFacts
from evals.errors import EvalError
from evals.interchange import inspect_log, lm_eval_log
from evals.interchange.answers import ForeignAnswer, ForeignRun, Unreadable
from evals.metrics import Metric, known_metric
from evals.record import MetricScore, SampleRecord
from evals.request import EvalConfig
from evals.tally import Tally

Harness = Literal["inspect", "lm_eval"]
_PLAIN = "accuracy"


@dataclass(frozen=True, slots=True)
class ImportedRun:
    config: dict[str, Any]
    result: dict[str, Any]
    records: list[SampleRecord]


def imported(
    body: bytes, harness: Harness, metric: str | None, *, model_id: str, digest: str, name: str
) -> ImportedRun:
    """`metric`: of theirs, which one counts. One that is not a metric of ours counts as `accuracy` where each answer
    is right or wrong by it. Blocks. Raises Unreadable.
    """
    run = _read(body, harness, metric)
    ours = _metric_for(run)
    records = [_record(answer, index, ours, digest) for index, answer in enumerate(run.answers)]
    if len({record.id for record in records}) < len(records):
        raise Unreadable("two of its samples have the same id")
    content = json.dumps([[record.id, record.input, record.target] for record in records]).encode()
    facts = DatasetFacts(
        name=run.task or name,
        format="input_target",
        samples=len(records),
        size_bytes=len(body),
        digest=f"sha256:{hashlib.sha256(content).hexdigest()}",
        ignored_keys=[],
    )
    config = EvalConfig(
        model_id=model_id,
        name=name,
        dataset_ref=facts.name,
        metrics=[ours.name],
        max_samples=len(records),
        max_error_share=1.0,
        dataset=facts,
    )
    tally = Tally(config.metrics)
    for record in records:
        tally.add(record)
    result = {
        **tally.metrics(),
        "dataset_digest": facts.digest,
        "model_digest": digest,
        "template_digest": None,
        "imported_from": {"harness": harness, "task": run.task, "metric": run.metric},
    }
    return ImportedRun(config.stored(), result, records)


def _read(body: bytes, harness: Harness, metric: str | None) -> ForeignRun:
    try:
        if harness == "inspect":
            return inspect_log.read(json.loads(body), metric)
        return lm_eval_log.read([json.loads(line) for line in body.splitlines() if line.strip()], metric)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"it is not {'JSON' if harness == 'inspect' else 'JSON lines'}: {error}") from error
    except (AttributeError, TypeError, OverflowError) as error:
        raise Unreadable(f"one of its samples is not as {harness} writes it: {error}") from error


def _metric_for(run: ForeignRun) -> Metric:
    values = {answer.value for answer in run.answers if answer.value is not None}
    if not values:
        raise Unreadable(f"metric: no sample has a value of {run.metric!r}")
    if any(not 0 <= value <= 1 for value in values):
        raise Unreadable(f"metric: values of {run.metric!r} must lie between 0 and 1; name another one with `metric`")
    binary = values <= {0.0, 1.0}
    try:
        known = known_metric(run.metric)
    except EvalError:
        known = None
    if known is not None and known.place != "loss" and (binary or not known.decides):
        return known
    if not binary:
        raise Unreadable(f"metric: {run.metric!r} is graded, and not a metric of ours; name another one with `metric`")
    return known_metric(_PLAIN)


def _record(answer: ForeignAnswer, index: int, metric: Metric, digest: str) -> SampleRecord:
    value = answer.value or 0.0
    right = value == 1.0
    score = MetricScore(value=value, correct=right if metric.decides else None, error=answer.error)
    return SampleRecord(
        id=answer.id,
        index=index,
        input=answer.input,
        target=answer.target,
        prediction=answer.prediction,
        extracted=None,
        correct=right,
        score=value,
        scores={metric.name: score},
        finish_reason=None,
        prompt_tokens=0,
        completion_tokens=0,
        latency_s=0.0,
        loss=None,
        reference_logprob=None,
        reference_tokens=0,
        model_digest=digest,
        error=answer.error,
    )
