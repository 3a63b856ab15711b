"""Other metrics of answers that were given already: no engine, and the run's own files stay as they are."""

import asyncio
import hashlib
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, ValidationError

from evals.error_share import DEFAULT_MAX_ERROR_SHARE, ErrorShare
from evals.errors import EvalError
from evals.judge import AllowedJudges, JudgeSpec, judge_by_url
from evals.metrics import decisive, known_metric, scored
from evals.record import MetricScore, SampleRecord
from evals.run_files import read_json, write_json
from evals.samples_log import SAMPLES_FILE, read_records
from evals.scoring import Scoring
from evals.tally import Tally
from stepserve.jobs.errors import Conflict, Invalid
from stepserve.jobs.eval_ports import DoneEval
from stepserve.request_model import RequestModel

FOLDER = "rescored"
_CHUNK = 64


class RescoreRequest(RequestModel):
    """What to work out of the answers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    metrics: list[str] = Field(min_length=1)
    judge: JudgeSpec | None = None

    @property
    def key(self) -> str:
        """Equal for requests that ask for the same."""
        said = [sorted(set(self.metrics)), self.judge and self.judge.model_dump(mode="json")]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def parse_request(body: bytes, answers_each: int, judges: AllowedJudges) -> RescoreRequest:
    """Raises Invalid naming the field."""
    try:
        request = RescoreRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "body"
        raise Invalid(f"{field}: {'unknown field' if first['type'] == 'extra_forbidden' else first['msg']}") from error
    for name in request.metrics:
        try:
            metric = known_metric(name)
        except EvalError as error:
            raise Invalid(f"metrics: {error}") from error
        if metric.k > answers_each:
            raise Invalid(f"metrics: {name} needs {metric.k} answers a question, {answers_each} were given")
    if ("judge" in request.metrics) != (request.judge is not None):
        raise Invalid("judge: the metric `judge` and the field that says who judges go together")
    if request.judge is not None and request.judge.url is None:
        raise Invalid("judge: scoring again uses no engine, so a judge needs a url")
    if request.judge is not None:
        judges.url_of(request.judge)
    return request


def records_of(done: DoneEval) -> list[SampleRecord]:
    """Blocks. Raises Conflict when the run kept no samples."""
    return list(stream_of(done))


def stream_of(done: DoneEval) -> Iterator[SampleRecord]:
    """`records_of`, one at a time."""
    try:
        yield from read_records(done.run_dir / SAMPLES_FILE)
    except FileNotFoundError:
        raise Conflict(f"{done.job_id} kept no samples (per_example_logging was false, or they were deleted)") from None


async def rescore(done: DoneEval, request: RescoreRequest, judges: AllowedJudges) -> dict[str, Any]:
    """The metrics, also kept in `rescored/<key>.json` beside the scores of each sample.

    Raises Invalid, Conflict (no samples, or more than the run's `max_error_share` of them got no verdict).
    """
    key = request.key
    folder = done.run_dir / FOLDER
    kept = await asyncio.to_thread(read_json, folder / f"{key}.json")
    if kept is not None:
        return kept
    records = await asyncio.to_thread(records_of, done)
    if not records:
        raise Conflict(f"{done.job_id} has no samples")
    _check_fit(request, records)
    tally = Tally(request.metrics, int(done.result.get("answers_per_sample", 1)))
    share = float(done.config.get("max_error_share", DEFAULT_MAX_ERROR_SHARE))
    errors = ErrorShare(decisive(request.metrics), len(records), share)
    scores: dict[str, Any] = {}
    try:
        judge = judge_by_url(request.judge, judges) if request.judge else None
        async with Scoring(request.metrics, judge) as scoring:
            pending = iter(records)
            while chunk := list(islice(pending, _CHUNK)):
                for record in await scoring.score(chunk):
                    tally.add(record)
                    errors.add(record)
                    scores[record.id] = {name: score.model_dump() for name, score in record.scores.items()}
                if reason := errors.exceeded():
                    raise Conflict(f"metrics: {reason}")
            metrics = tally.metrics(await scoring.corpus(tally.corpus_counts))
    except EvalError as error:
        raise Invalid(f"metrics: {error}") from error
    result = {
        "job_id": done.job_id,
        **metrics,
        **{key: done.result.get(key) for key in ("dataset_digest", "model_digest", "template_digest", "seed")},
    }
    await asyncio.to_thread(_write, folder, key, result, scores)
    return result


def scores_by(done: DoneEval, records: list[SampleRecord], metric: str) -> dict[str, MetricScore]:
    """Each sample's score by one metric, of the run itself or of a rescoring. Blocks. Raises Conflict."""
    if any(metric in record.scores for record in records):
        return {record.id: record.scores[metric] for record in records if metric in record.scores}
    for path in sorted((done.run_dir / FOLDER).glob("*.scores.json")):
        kept = read_json(path) or {}
        if any(metric in scores for scores in kept.values()):
            return {
                name: MetricScore.model_validate(scores[metric]) for name, scores in kept.items() if metric in scores
            }
    raise Conflict(
        f"metric: {done.job_id} has no scores by {metric!r}; POST /eval/jobs/{done.job_id}/rescore works them out"
    )


def _check_fit(request: RescoreRequest, records: list[SampleRecord]) -> None:
    """Raises Invalid for a metric that the records cannot have."""
    for metric in scored(request.metrics):
        for record in records:
            if record.error is not None:
                continue
            reason = metric.misfit(record)
            if reason is None and metric.place == "choices" and not record.continuations:
                reason = "no log-probabilities of its choices were taken, which needs the engine"
            if reason is None and metric.needs_generation and record.finish_reason is None:
                reason = "no answer was generated, which needs the engine"
            if reason is not None:
                raise Invalid(f"metrics: {metric.name} does not fit sample {record.id}: {reason}")


def _write(folder: Path, key: str, result: dict[str, Any], scores: dict[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    write_json(folder / f"{key}.scores.json", scores)
    write_json(folder / f"{key}.json", result)
