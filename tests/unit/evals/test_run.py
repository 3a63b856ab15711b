import asyncio
import json
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from evals.kind import EvalKind
from evals.request import EvalJobRequest
from evals.run import EvalRun
from evals.tally import TIMING_KEYS
from stepserve.contract import BatchOutput, BatchRequest, BatchResult, ModelRef
from stepserve.jobs.errors import BadJob, GatewayUnavailable, JobCancelled, WrongWeights
from stepserve.jobs.ports import CardUse
from tests.unit.evals.adding_engine import AddingEngine, HeldEngine, RunContext

SAMPLES = 30
CHUNK = 4
TIMEOUT_S = 240


class Bench:
    """A datasets folder with one set of sums, and runs of it."""

    def __init__(self, folder: Path) -> None:
        self.datasets_dir = folder / "datasets"
        self.datasets_dir.mkdir()
        self.dataset = self.datasets_dir / "sums.jsonl"
        self.dataset.write_text(
            "".join(
                json.dumps({"id": f"sum-{a}", "question": f"What is {a}+{a + 3}?", "answer": 2 * a + 3}) + "\n"
                for a in range(SAMPLES)
            )
        )
        self._runs = folder / "runs"

    def context(self, run: str = "run", engine: AddingEngine | None = None, **request: Any) -> RunContext:
        fields = {"model_id": "step-1500", "name": "sums", "dataset_ref": "sums", "max_error_share": 0.1, **request}
        asked = EvalJobRequest(**fields)
        return RunContext(
            config=EvalKind().check(asked, self.datasets_dir),
            run_dir=self._runs / run,
            datasets_dir=self.datasets_dir,
            adding=engine or AddingEngine(),
        )


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def _await(coroutine: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
    return asyncio.run(asyncio.wait_for(coroutine, TIMEOUT_S))


def _run(context: RunContext) -> dict[str, Any]:
    return _await(EvalKind().run(context))


def _json(context: RunContext, name: str) -> Any:
    return json.loads((context.run_dir / name).read_bytes())


def _lines(context: RunContext) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (context.run_dir / "samples.jsonl").read_bytes().splitlines()]


def _lasting(result: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key not in TIMING_KEYS}


def test_the_result_is_what_metrics_json_holds(bench: Bench) -> None:
    context = bench.context()
    result = _run(context)
    totals = [2 * a + 3 for a in range(SAMPLES)]
    failed = [total for total in totals if total % 13 == 0]
    answered = [total for total in totals if total % 13]
    right = [total for total in answered if total % 11 and total % 5]
    assert result == _json(context, "metrics.json")
    assert (result["total_samples"], result["correct"]) == (SAMPLES, len(right))
    assert result["accuracy"] == len(right) / len(answered), "what has no answer is neither right nor wrong"
    assert (result["accuracy_denominator"], result["answered_samples"]) == ("answered_samples", len(answered))
    assert result["engine_errors"] == result["errors"] == len(failed)
    assert result["empty"] == sum(total % 11 == 0 for total in answered)
    assert result["truncated"] == sum(total % 7 == 0 for total in answered)
    assert result["avg_loss"] == pytest.approx(0.1 * sum(answered) / sum(len(str(total)) for total in answered))
    assert (result["model_digest"], result["dataset_digest"]) == ("sha256:aa", context.config["dataset"]["digest"])
    assert result["resumed_samples"] == 0
    assert (result["gpu_seconds"], result["energy"]) == (None, None), "there is no card"
    assert sorted(path.name for path in context.run_dir.iterdir()) == ["config.json", "metrics.json", "samples.jsonl"]


def test_what_the_cards_gave_is_in_the_result(bench: Bench) -> None:
    context = bench.context()
    context.card_use = CardUse(12.5, {"joules": 4000.0})
    result = _run(context)
    assert (result["gpu_seconds"], result["energy"]) == (12.5, {"joules": 4000.0})
    assert result == _json(context, "metrics.json")


def test_samples_and_config_are_complete(bench: Bench) -> None:
    context = bench.context(seed=3)
    _run(context)
    lines = _lines(context)
    assert sorted(line["index"] for line in lines) == list(range(SAMPLES))
    assert {line["id"] for line in lines} == {f"sum-{a}" for a in range(SAMPLES)}
    config = _json(context, "config.json")
    assert config["model"] == context.model.model_dump(include={"id", "path", "digest"})
    assert (config["job_id"], config["type"], config["sampling"]["seed"]) == (context.job_id, "eval", 3)
    assert config["dataset"] == context.config["dataset"]
    assert {key: config[key] for key in context.config} == context.config


def test_progress_is_reported_once_a_chunk(bench: Bench) -> None:
    context = bench.context()
    _run(context)
    done = [done for done, _ in context.reports]
    assert {total for _, total in context.reports} == {SAMPLES}
    assert done == sorted(done)
    assert (done[0], done[-1], len(done)) == (0, SAMPLES, 1 + -(-SAMPLES // CHUNK))


def test_max_samples_bounds_what_is_asked(bench: Bench) -> None:
    engine = AddingEngine()
    assert _run(bench.context(engine=engine, max_samples=5))["total_samples"] == 5
    assert len(engine.items) == 5


def test_the_clock_gives_seconds_and_rates(bench: Bench) -> None:
    times = iter([100.0, 102.0])
    result = _await(EvalRun(bench.context(), clock_s=lambda: next(times)).run())
    assert (result["seconds"], result["samples_per_s"]) == (2.0, SAMPLES / 2)
    assert result["tokens_per_s"] == result["completion_tokens"] / 2


@pytest.mark.parametrize("torn", [b"", b'{"id": "sum-', b"\0\0\0"])
@pytest.mark.parametrize("stop_after", range(0, SAMPLES + 1, CHUNK))
def test_a_run_taken_up_again_ends_the_same(bench: Bench, stop_after: int, torn: bytes) -> None:
    expected = _lasting(_run(bench.context("whole")))

    first = bench.context("broken")
    first.cancel_after = stop_after
    with pytest.raises(JobCancelled):
        _run(first)
    assert not (first.run_dir / "metrics.json").exists()
    with (first.run_dir / "samples.jsonl").open("ab") as file:
        file.write(torn)
    kept = first.reports[-1][0]

    second = bench.context("broken")
    result = _run(second)
    assert _lasting(result) == expected
    assert _lasting(_json(second, "metrics.json")) == expected
    assert result["resumed_samples"] == kept
    assert len(second.adding.items) == SAMPLES - kept
    assert len(_lines(second)) == SAMPLES


class FailingEngine(AddingEngine):
    """Answers `good` requests, then no more."""

    def __init__(self, good: int) -> None:
        super().__init__()
        self._good = good

    async def generate(self, request: BatchRequest) -> BatchResult:
        if len(self.requests) == self._good:
            raise GatewayUnavailable("engine is restarting")
        return await super().generate(request)


@pytest.mark.parametrize("good", range(8))
def test_an_engine_that_goes_away_costs_no_finished_chunk(bench: Bench, good: int) -> None:
    expected = _lasting(_run(bench.context("whole")))
    with pytest.raises(GatewayUnavailable):
        _run(bench.context("broken", FailingEngine(good)))
    again = bench.context("broken")
    result = _run(again)
    assert _lasting(result) == expected
    assert result["resumed_samples"] == good * CHUNK


def test_a_run_that_is_over_answers_again_without_the_engine(bench: Bench) -> None:
    result = _run(bench.context())
    again = bench.context()
    assert _run(again) == result
    assert again.adding.requests == []


def test_a_crash_between_the_last_sample_and_the_metrics(bench: Bench) -> None:
    context = bench.context()
    result = _run(context)
    (context.run_dir / "metrics.json").unlink()
    again = bench.context()
    resumed = _run(again)
    assert _lasting(resumed) == _lasting(result)
    assert (resumed["samples_per_s"], resumed["tokens_per_s"]) == (None, None)
    assert again.adding.requests == []


def test_without_example_logging_samples_serve_resumption_alone(bench: Bench) -> None:
    first = bench.context(per_example_logging=False)
    first.cancel_after = 2 * CHUNK
    with pytest.raises(JobCancelled):
        _run(first)
    assert (first.run_dir / "samples.jsonl").exists()
    again = bench.context(per_example_logging=False)
    result = _run(again)
    assert result["resumed_samples"] == 2 * CHUNK
    assert _lasting(result) == _lasting(_run(bench.context("whole")))
    assert sorted(path.name for path in again.run_dir.iterdir()) == ["config.json", "metrics.json"]


@pytest.mark.parametrize("cancel_after", [CHUNK, None])
def test_samples_of_other_weights_are_never_mixed(bench: Bench, cancel_after: int | None) -> None:
    first = bench.context()
    first.cancel_after = cancel_after
    if cancel_after is None:
        _run(first)
    else:
        with pytest.raises(JobCancelled):
            _run(first)
    before = {path.name: path.read_bytes() for path in first.run_dir.iterdir()}
    second = bench.context(engine=AddingEngine(digest="sha256:bb"))
    second.model = ModelRef(id="step-1500", path="/models/step-1500", digest="sha256:bb")
    with pytest.raises(WrongWeights, match="begun with sha256:aa; step-1500 is sha256:bb now"):
        _run(second)
    assert {path.name: path.read_bytes() for path in first.run_dir.iterdir()} == before
    assert second.adding.requests == []


def test_a_dataset_that_changed_fails_the_job_before_the_engine(bench: Bench) -> None:
    context = bench.context()
    with bench.dataset.open("a") as file:
        file.write('{"question": "1+1", "answer": 2}\n')
    with pytest.raises(BadJob, match=r"sums\.jsonl changed since the job was made"):
        _run(context)
    assert context.adding.requests == []


def test_a_dataset_that_is_gone_fails_the_job(bench: Bench) -> None:
    context = bench.context()
    bench.dataset.unlink()
    with pytest.raises(BadJob, match=r"no file 'sums\.jsonl'"):
        _run(context)


class SlyEngine(AddingEngine):
    """Somebody deletes the dataset when the first question comes."""

    def __init__(self, dataset: Path) -> None:
        super().__init__()
        self._dataset = dataset

    async def generate(self, request: BatchRequest) -> BatchResult:
        self._dataset.unlink(missing_ok=True)
        return await super().generate(request)


def test_a_dataset_may_go_while_its_job_runs(bench: Bench) -> None:
    expected = _lasting(_run(bench.context("calm")))
    assert _lasting(_run(bench.context("sly", SlyEngine(bench.dataset)))) == expected
    assert not bench.dataset.exists()


def test_a_log_of_more_samples_than_the_dataset_is_refused(bench: Bench) -> None:
    context = bench.context()
    _run(context)
    (context.run_dir / "metrics.json").unlink()
    with pytest.raises(BadJob, match="has 30 samples where the dataset has 5"):
        _run(bench.context(max_samples=5, max_error_share=0.5))


def test_cancelling_the_task_cancels_the_engines_requests(bench: Bench) -> None:
    async def scenario() -> None:
        engine = HeldEngine()
        run = asyncio.create_task(EvalKind().run(bench.context(engine=engine)))
        await engine.arrivals(2)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert sorted(engine.cancelled) == [0, 1]

    asyncio.run(asyncio.wait_for(scenario(), TIMEOUT_S))


def test_finished_chunks_are_on_disk_while_others_run(bench: Bench) -> None:
    async def scenario() -> None:
        engine = HeldEngine()
        context = bench.context(engine=engine)
        run = asyncio.create_task(EvalKind().run(context))
        await engine.arrivals(2)
        engine.release(1)
        await engine.arrivals(3)
        engine.release(2)
        await engine.arrivals(4)
        assert {line["index"] for line in _lines(context)} >= set(range(4, 8))
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run

    asyncio.run(asyncio.wait_for(scenario(), TIMEOUT_S))


def test_a_sample_that_two_attempts_wrote_counts_once(bench: Bench) -> None:
    context = bench.context()
    expected = _lasting(_run(context))
    (context.run_dir / "metrics.json").unlink()
    samples = context.run_dir / "samples.jsonl"
    samples.write_bytes(samples.read_bytes() + samples.read_bytes().splitlines(keepends=True)[0])
    assert _lasting(_run(bench.context())) == expected


class MuteEngine(AddingEngine):
    """Refuses every item, as one without a chat template does; `cured` makes it answer."""

    cured = False

    async def generate(self, request: BatchRequest) -> BatchResult:
        result = await super().generate(request)
        if self.cured:
            return result
        refused = [BatchOutput(error="no chat template") for _ in result.outputs]
        return result.model_copy(update={"outputs": refused})


def test_a_model_that_cannot_answer_fails_its_job_early(bench: Bench) -> None:
    engine = MuteEngine()
    context = bench.context(engine=engine)
    with pytest.raises(
        BadJob, match=r"have no result .not one has; max_error_share.*; most often \(4 times\): no chat template"
    ):
        _run(context)
    assert len(engine.items) <= context.batch_window_items + CHUNK
    assert not (context.run_dir / "metrics.json").exists()


def test_a_retry_asks_what_failed_again(bench: Bench) -> None:
    expected = _lasting(_run(bench.context("whole")))
    engine = MuteEngine()
    with pytest.raises(BadJob):
        _run(bench.context("broken", engine))
    engine.cured = True
    again = bench.context("broken", engine)
    assert _lasting(_run(again)) == expected
    assert len(_lines(again)) == SAMPLES
    assert sorted(path.name for path in again.run_dir.iterdir()) == ["config.json", "metrics.json", "samples.jsonl"]


def test_a_share_of_errors_above_the_limit_fails_the_job(bench: Bench) -> None:
    with pytest.raises(BadJob, match=r"max_error_share 0\.02 allows 0 of 30.*prompt is longer than the context"):
        _run(bench.context(max_error_share=0.02))
