"""A database and runs of a server that has worked for years, made within minutes by SQL."""

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import create_async_engine

from control.database.database import Database
from evals.kind import EvalKind
from evals.record import MetricScore, SampleRecord
from evals.request import EvalJobRequest
from evals.samples_log import open_samples
from stepserve.paths import Layout

DATASET = Path(__file__).resolve().parents[1] / "demo" / "datasets" / "math_eval.jsonl"
ACTIVE = "model-00000"
FIRST_RUN = 500  # the number of the first job with files; those before are pending, of models that are not loaded
_MINUTES = 31 * 24 * 60
_ROWS_AT_ONCE = 50_000


@dataclass(frozen=True, slots=True)
class Size:
    """`runs` of the jobs have files, with `samples_each` samples; as many shards and deliveries as models."""

    jobs: int
    models: int
    runs: int
    samples_each: int

    def __str__(self) -> str:
        samples = self.runs * self.samples_each
        return f"{self.jobs:,} jobs, {self.models:,} models, {samples:,} samples in {self.runs} runs"


def job_id(number: int) -> str:
    """The higher the number, the older."""
    return f"eval_{number:08d}"


async def fill(url: str, layout: Layout, size: Size) -> None:
    """Migrates the database and fills it; all that was made is a second apart."""
    layout.create()
    shutil.copy(DATASET, layout.datasets)
    database = Database(url)
    await database.migrate()
    await database.close()
    config = EvalKind().check(
        EvalJobRequest(name="nightly", model_id="m", dataset_ref=DATASET.name, metrics=["accuracy"]), layout.datasets
    )
    engine = create_async_engine(url)
    at = _at_sqlite if engine.dialect.name == "sqlite" else _at_postgresql
    try:
        for statement, values in _statements(size, config, at):
            async with engine.begin() as connection:
                await connection.execute(text(statement), values)
        async with engine.connect() as connection:
            await connection.run_sync(_analyze)
    finally:
        await engine.dispose()
    _write_runs(layout, size)


def _analyze(connection: Connection) -> None:
    """As PostgreSQL does by itself after some minutes; SQLite never does."""
    if connection.dialect.name == "postgresql":
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("VACUUM ANALYZE"))


def _at_sqlite(seconds_ago: str) -> str:
    return f"strftime('%Y-%m-%d %H:%M:%f000', 'now', '-' || ({seconds_ago}) || ' seconds')"


def _at_postgresql(seconds_ago: str) -> str:
    return f"(now() - ({seconds_ago}) * interval '1 second')"


def _numbers(into: str, first: int, count: int) -> str:
    """The beginning of an INSERT of so many rows, numbered `i`."""
    return (
        f"INSERT INTO {into} WITH RECURSIVE n(i) AS"
        f" (SELECT {first} UNION ALL SELECT i + 1 FROM n WHERE i < {first + count - 1}) SELECT "
    )


def _padded(number: str, width: int) -> str:
    return f"substr(cast({10**width} + {number} as text), 2)"


def _statements(
    size: Size, config: dict[str, Any], at: Callable[[str], str]
) -> Iterable[tuple[str, dict[str, str | bool]]]:
    model = f"'model-' || {_padded('(i % :models)', 5)}".replace(":models", str(size.models))
    digest = f"'sha256:' || (i % {size.models})"
    of_models = "id, path, source, tags, step, digest, architecture, size_bytes, created_at, has_template, policies_due"
    into = f"models ({of_models})"
    yield (
        (
            f"{_numbers(into, 0, size.models)} {model}, '/models/' || i, 'trainer', '[\"nightly\"]', i, {digest},"
            f" 'Qwen3ForCausalLM', 1200000, {at('i')}, :yes, NULL FROM n"
        ),
        {"yes": True},
    )
    yield f"INSERT INTO active_model (singleton, model_id, since) VALUES (1, '{ACTIVE}', {at('1')})", {}
    into = (
        "jobs (id, type, model_id, model_digest, status, config, result, attempt, progress_done, fingerprint,"
        " created_by, created_at, started_at, finished_at, unannounced)"
    )
    status = (
        f"CASE WHEN i < {FIRST_RUN} THEN 'pending' WHEN i % 50 = 1 THEN 'failed' WHEN i % 50 = 2 THEN 'cancelled'"
        " ELSE 'done' END"
    )
    kind = f"CASE WHEN i >= {FIRST_RUN} AND i % 10 = 9 THEN 'data_gen' ELSE 'eval' END"
    over = f"CASE WHEN i >= {FIRST_RUN} THEN {at('i')} END"
    for first in range(0, size.jobs, _ROWS_AT_ONCE):
        # Pending jobs are of models beside the active one, whose number is 0.
        of_model = model if first else model.replace("(i %", "((i + 1) %")
        yield (
            f"{_numbers(into, first, min(_ROWS_AT_ONCE, size.jobs - first))} 'eval_' || {_padded('i', 8)}, {kind},"
            f" {of_model}, {digest}, {status}, :config, CASE WHEN i >= {FIRST_RUN} THEN :result END, 1, 1000,"
            f" 'print-' || i, 'key-' || (i % 20), {at('i')}, {over}, {over}, NULL FROM n".replace(
                ":config", f"CAST(:config AS {_JSON[at]})"
            ).replace(":result", f"CAST(:result AS {_JSON[at]})"),
            {"config": json.dumps(config), "result": json.dumps(_RESULT)},
        )
    into = "job_attempts (job_id, attempt, owner, started_at, ended_at, outcome)"
    for first in range(FIRST_RUN, size.jobs, _ROWS_AT_ONCE):
        yield (
            (
                f"{_numbers(into, first, min(_ROWS_AT_ONCE, size.jobs - first))} 'eval_' || {_padded('i', 8)}, 1,"
                f" 'host:1', {at('i')}, {at('i')}, 'done' FROM n"
            ),
            {},
        )
    into = (
        "activations (model_id, digest, cause, requested_method, method, status, started_at, finished_at, unannounced)"
    )
    yield (
        (
            f"{_numbers(into, 0, size.models)} {model}, {digest}, 'request', 'auto', 'in_place', 'done', {at('i')},"
            f" {at('i')}, NULL FROM n"
        ),
        {},
    )
    into = (
        "shards (name, path, day, number, job_id, ordinal, state, rows, size_bytes, sha256, created_at, published_at)"
    )
    yield (
        (
            f"{_numbers(into, 0, size.models)} 'shard_' || i, 'train_shards_out/shard_' || i, '2026-01-01', i,"
            f" 'eval_' || {_padded('(i * 10 + 9)', 8)}, 0, 'published', 1000, 100000, 'x', {at('i')}, {at('i')} FROM n"
        ),
        {},
    )
    minute = {"at": "WHEN", "span_s": 60, "requests": 100, "running": 3, "tokens": {"m": 1000}}
    moment = f"cast({at('i * 60')} as text)"
    moment = f"substr({moment}, 1, 10) || 'T' || substr({moment}, 12, 8) || 'Z'"
    yield (
        (
            f"{_numbers('history_minutes (at, content)', 1, _MINUTES)} {at('i * 60')},"
            f" CAST(replace(:content, 'WHEN', {moment}) AS {_JSON[at]}) FROM n"
        ),
        {"content": json.dumps(minute)},
    )
    into = "audit_log (at, actor, method, path, status)"
    yield f"{_numbers(into, 0, size.models)} {at('i')}, 'key-1', 'POST', '/models/register', 200 FROM n", {}


_JSON: dict[Callable[[str], str], str] = {_at_sqlite: "text", _at_postgresql: "json"}
_RESULT: dict[str, Any] = {
    "accuracy": 0.5, "accuracy_metric": "accuracy", "accuracy_ci95": [0.4, 0.6], "accuracy_stderr": 0.02,
    "total_samples": 1000, "answered_samples": 1000, "correct": 500, "errors": 0, "avg_loss": 1.0, "perplexity": 2.7,
    "metrics": {"accuracy": {"mean": 0.5, "ci95": [0.4, 0.6], "samples": 1000, "unparsed": 3}}, "seed": 1,
    "dataset_digest": "sha256:0", "template_digest": "sha256:0", "samples_per_s": 900.0, "seconds": 1.1,
}  # fmt: skip


def record(number: int) -> SampleRecord:
    score = MetricScore(value=number % 2, correct=bool(number % 2), extracted="42")
    return SampleRecord(
        id=f"q{number}", index=number, input="What is 17 + 25?", target="42", prediction="17 + 25 = 42",
        extracted="42", correct=bool(number % 2), score=number % 2, scores={"accuracy": score}, finish_reason="stop",
        prompt_tokens=20, completion_tokens=8, latency_s=0.01, loss=0.1, reference_logprob=-0.2, reference_tokens=2,
        model_digest="sha256:0", error=None,
    )  # fmt: skip


def _write_runs(layout: Layout, size: Size) -> None:
    first: Path | None = None
    for number in range(FIRST_RUN, FIRST_RUN + size.runs):
        folder = layout.eval_runs / job_id(number)
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}\n")
        (folder / "metrics.json").write_text(json.dumps(_RESULT))
        if first is None:
            first = folder / "samples.jsonl"
            with open_samples(first) as log:
                log.append(record(sample) for sample in range(size.samples_each))
        else:
            shutil.copyfile(first, folder / first.name)
