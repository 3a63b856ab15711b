"""What can be said of evals that are done: implements stepserve.jobs.eval_ports.EvalReports."""

import asyncio
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ValidationError

from evals.compare import compare, paired
from evals.error_share import DEFAULT_MAX_ERROR_SHARE, errors_allowed, unscored
from evals.errors import EvalError
from evals.flaky import Flakiness, FlakyQuestions
from evals.interchange.answers import Unreadable
from evals.interchange.exported import exported
from evals.interchange.imported import imported
from evals.interchange.written import write_run
from evals.judge import AllowedJudges
from evals.kind import EvalKind
from evals.metrics import Metric, known_names, metric_named
from evals.report import report_of
from evals.rescore import RescoreRequest, parse_request, records_of, rescore, scores_by, stream_of
from evals.sample_index import SampleIndices
from evals.sample_page import sample_page
from evals.saturation import Saturation, saturation_of
from stepserve.full_disk import is_disk_full
from stepserve.jobs.errors import Conflict, Invalid, NoSpace
from stepserve.jobs.eval_ports import DoneEval, ExportFormat, Harness, SampleQuery
from stepserve.readable import readable
from stepserve.report.blocks import Document
from stepserve.request_model import RequestModel

_KEPT_MARKS = 16
_SHOWN_FLAKY = 500
_LONGEST_ANSWER = 4000
_SAME = ("dataset_digest", "template_digest", "seed")


class EvalReports:
    """Rescorings that run are shared by all who ask for the same one, and go on when nobody waits any more."""

    rescore_model: ClassVar[type[RequestModel]] = RescoreRequest

    def __init__(self, judges: AllowedJudges | None = None) -> None:
        self._judges = judges or AllowedJudges()
        self._running: dict[tuple[str, str], asyncio.Task[dict[str, Any]]] = {}
        self._indices = SampleIndices()
        self._flaky: dict[tuple[str, ...], Mapping[str, Flakiness]] = {}

    async def compare(self, a: DoneEval, b: DoneEval, metric: str | None) -> dict[str, Any]:
        name = metric or _common_metric(a, b)
        try:
            found = metric_named(name)
        except EvalError as error:
            raise Invalid(f"metric: {error}") from error
        if found is None or found.place == "loss":
            raise Invalid(f"metric: {name!r} has no score a sample; known are {', '.join(known_names())}")
        for which, done in (("a", a), ("b", b)):
            if reason := self.spoilt(done.config, done.result):
                raise Conflict(f"{which}: {done.job_id} does not name its model: {reason}")
        return await asyncio.to_thread(_compare, a, b, found)

    async def rescore(self, done: DoneEval, body: bytes) -> dict[str, Any]:
        request = parse_request(body, int(done.result.get("answers_per_sample", 1)), self._judges)
        key = (done.job_id, request.key)
        if key not in self._running:
            self._running[key] = asyncio.create_task(rescore(done, request, self._judges))
            self._running[key].add_done_callback(lambda _: self._running.pop(key))
        return await asyncio.shield(self._running[key])

    async def samples(
        self,
        done: DoneEval,
        wanted: SampleQuery,
        others: Sequence[DoneEval] = (),
        changed_from: DoneEval | None = None,
    ) -> dict[str, Any]:
        page = await asyncio.to_thread(sample_page, done, wanted, self._indices, changed_from)
        marks = await self._marks(done, others)
        for sample in page["samples"]:
            sample["flaky"] = marks.get(sample["id"])
        return page

    async def report(self, done: DoneEval) -> Document:
        return await asyncio.to_thread(report_of, done)

    async def export(self, done: DoneEval, form: ExportFormat) -> tuple[bytes, str]:
        return await asyncio.to_thread(exported, done, form, done.finished_at)

    async def take_in(
        self,
        body: bytes,
        harness: Harness,
        metric: str | None,
        *,
        model_id: str,
        digest: str,
        name: str,
        run_dir: Path,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        def take() -> tuple[dict[str, Any], dict[str, Any]]:
            run = imported(body, harness, metric, model_id=model_id, digest=digest, name=name)
            run_dir.mkdir(parents=True)
            try:
                write_run(run_dir, run, run.config)
            except OSError as error:
                shutil.rmtree(run_dir, ignore_errors=True)
                if is_disk_full(error):
                    raise NoSpace(f"the run does not fit on the disk of {run_dir.parent}") from error
                raise
            except ValueError:
                shutil.rmtree(run_dir, ignore_errors=True)
                raise
            return run.config, run.result

        try:
            return await asyncio.to_thread(take)
        except Unreadable as error:
            raise Invalid(f"the log cannot be taken in: {error}") from error
        except ValidationError as error:
            raise Invalid(f"the log cannot be taken in: {readable(error.errors(include_url=False))}") from error
        except ValueError as error:  # half of a surrogate pair, say
            raise Invalid(f"the log cannot be taken in: it holds what cannot be written: {error}") from error

    def saturation(self, result: dict[str, Any]) -> Saturation | None:
        return saturation_of(result)

    async def flaky(self, done: DoneEval, others: Sequence[DoneEval]) -> dict[str, Any]:
        return await asyncio.to_thread(_flaky, done, others)

    async def _marks(self, done: DoneEval, others: Sequence[DoneEval]) -> Mapping[str, Flakiness]:
        """Of the same runs worked out once: what a run that is done says stays."""
        key = (done.job_id, *(other.job_id for other in others))
        if others and key not in self._flaky:
            _, found = await asyncio.to_thread(_flaky_among, done, others)
            while len(self._flaky) >= _KEPT_MARKS:
                del self._flaky[next(iter(self._flaky))]
            self._flaky[key] = found
        return self._flaky.get(key, {})

    def spoilt(self, config: dict[str, Any], result: dict[str, Any]) -> str | None:
        errors, total = result.get("errors", result.get("engine_errors", 0)), result.get("total_samples", 0)
        share = config.get("max_error_share", DEFAULT_MAX_ERROR_SHARE)
        if not errors or (errors < total and errors <= errors_allowed(share, total)):
            return None
        return f"{errors} of its {total} samples have no result (max_error_share is {share:g})"

    def series(self, config: dict[str, Any]) -> str:
        identity = {**EvalKind().identity(config), "per_example_logging": None, "max_error_share": None}
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def _flaky_among(done: DoneEval, others: Sequence[DoneEval]) -> tuple[list[DoneEval], Mapping[str, Flakiness]]:
    """The runs that could be read, `done` first, and the questions that are flaky among them. Raises Conflict."""
    questions, read = FlakyQuestions(), [done]
    questions.add(stream_of(done))
    for other in others:
        try:
            questions.add(stream_of(other))
        except (Conflict, OSError):  # it kept none, or they cannot be read any more
            continue
        read.append(other)
    return read, questions.found


def _flaky(done: DoneEval, others: Sequence[DoneEval]) -> dict[str, Any]:
    runs, found = _flaky_among(done, others)
    shown: dict[str, dict[str, Any]] = {
        name: {"id": name, "differs": found[name], "answers": {}, "scores": {}} for name in islice(found, _SHOWN_FLAKY)
    }
    for run in runs:
        for record in stream_of(run) if shown else ():
            if (one := shown.get(record.id)) is not None:
                one["answers"][run.job_id] = record.prediction[:_LONGEST_ANSWER]
                one["scores"][run.job_id] = record.score
    return {
        "job_id": done.job_id,
        "compared_with": [run.job_id for run in runs[1:]],
        "flaky": len(found),
        "questions": list(shown.values()),
    }


def _common_metric(a: DoneEval, b: DoneEval) -> str:
    names = {str(done.result.get("accuracy_metric")) for done in (a, b)}
    if len(names) > 1:
        raise Invalid(f"metric: a and b were decided by {' and '.join(sorted(names))}; say which one is meant")
    return names.pop()


def _compare(a: DoneEval, b: DoneEval, found: Metric) -> dict[str, Any]:
    metric = found.name
    first, second = records_of(a), records_of(b)
    pairs, left_out = paired(first, second)
    before, after = scores_by(a, first, metric), scores_by(b, second, metric)
    both = [(one.id, before[one.id], after[one.id]) for one, _ in pairs if one.id in before and one.id in after]
    scores = [(name, old, new) for name, old, new in both if not (unscored(old, found) or unscored(new, found))]
    left_out["not_scored"] = len(pairs) - len(scores)
    if not scores:
        raise Conflict(f"{a.job_id} and {b.job_id} share no answered question ({left_out})")
    cluster_of = {one.id: new.cluster or one.cluster for one, new in pairs}
    clusters = [cluster for name, _, _ in scores if (cluster := cluster_of[name]) is not None]
    return {
        "a": _shown(a),
        "b": _shown(b),
        "metric": metric,
        **compare(scores, clusters if len(clusters) == len(scores) else None),
        "left_out": left_out,
        "differs": [name for name in _SAME if a.result.get(name) != b.result.get(name)],
    }


def _shown(done: DoneEval) -> dict[str, Any]:
    result = done.result
    return {
        "job_id": done.job_id,
        "model_id": done.model_id,
        "model_digest": done.model_digest,
        "dataset": done.config.get("dataset", {}).get("name"),
        "accuracy": result.get("accuracy"),
        "total_samples": result.get("total_samples"),
    }
