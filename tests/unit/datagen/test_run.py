"""A run from its config to its shards, on an engine in memory."""

import asyncio
import hashlib
import json
import random
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from datagen.decontamination import ContaminationIndex
from stepserve.contract import BatchItem, BatchOutput, BatchRequest, BatchResult
from stepserve.jobs.errors import BadJob, GatewayUnavailable, JobCancelled, JobPaused, WrongWeights
from tests.unit.datagen.run_setup import RunSetup, SayingEngine, prompt_of, said
from tests.unit.evals.adding_engine import AddingEngine

SUMS = [{"a": a, "b": b} for a in range(10, 20) for b in range(30, 42)]
TEMPLATE = "What is {{a}}+{{b}}?"


def adds(item: BatchItem) -> BatchOutput:
    a, b = prompt_of(item).removeprefix("What is ").removesuffix("?").split("+")
    return said(str(int(a) + int(b)))


@pytest.fixture
def run_setup(tmp_path: Path) -> RunSetup:
    return RunSetup(tmp_path)


def _sums(run_setup: RunSetup, **more: Any) -> dict[str, Any]:
    config = {"template": TEMPLATE, "rows": SUMS, "verify": "executed", "num_examples": 100, "shard_size": 30}
    return run_setup.check("custom", **{**config, **more})


def _lasting(result: dict[str, Any]) -> dict[str, Any]:
    timed = {"seconds", "tokens_per_s", "engine_busy_share"}
    return {key: value for key, value in result.items() if key not in timed}


def test_as_many_examples_as_were_asked_for_in_whole_shards(run_setup: RunSetup) -> None:
    result = run_setup.go(run_setup.context(_sums(run_setup), SayingEngine(adds)))
    assert (result["accepted"], result["partial"]) == (100, False)
    assert result["verified_by"] == {"executed": 100}
    rows = run_setup.rows()
    assert len({row["id"] for row in rows}) == len(rows) == 100
    sizes = [len(path.read_text().splitlines()) for path in sorted(run_setup.layout.shards.glob("*"))]
    assert sizes == [30, 30, 30, 10]
    assert [path.name for path in sorted(run_setup.layout.shards.iterdir())] == result["shards"]
    for row in rows:
        question, answer = (turn["content"] for turn in row["messages"])
        assert answer == row["metadata"]["answer"] == str(sum(map(int, question[8:-1].split("+"))))


def test_every_row_has_the_same_keys_and_types(run_setup: RunSetup) -> None:
    def shape(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: shape(item) for key, item in value.items()}
        return [shape(value[0])] if isinstance(value, list) else type(value).__name__

    run_setup.go(run_setup.context(_sums(run_setup), SayingEngine(adds)))
    plain = {"template": "Say {{word}}.", "rows": [{"word": word} for word in ("yes", "no", "maybe")]}
    run_setup.run(SayingEngine(lambda item: f"You want {prompt_of(item)}"), "custom", job="data_gen_2", **plain)
    shapes = [shape(row) for row in run_setup.rows()]
    assert len(shapes) == 103
    assert all(each == shapes[0] for each in shapes)
    assert set(shapes[0]) == {"id", "messages", "metadata"}


def test_the_manifest_names_every_shard_with_its_hash(run_setup: RunSetup) -> None:
    context = run_setup.context(_sums(run_setup), SayingEngine(adds))
    run_setup.go(context)
    manifest = json.loads((context.run_dir / "manifest.json").read_text())
    assert manifest["rows"] == 100
    for shard in manifest["shards"]:
        content = (run_setup.layout.base / shard["path"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == shard["sha256"]
        assert content.count(b"\n") == shard["rows"]
    card = (context.run_dir / "README.md").read_text()
    assert card.startswith("---\nconfigs:\n")
    assert all(shard["name"] in card for shard in manifest["shards"])


class MortalEngine(SayingEngine):
    """Dies at its n-th request."""

    def __init__(self, life: int) -> None:
        super().__init__(adds)
        self._life = life

    async def generate(self, request: BatchRequest) -> BatchResult:
        self._life -= 1
        if self._life < 0:
            raise GatewayUnavailable("gone")
        return await super().generate(request)


def test_a_run_that_ended_at_any_point_goes_on_and_makes_the_same_examples(run_setup: RunSetup, tmp_path: Path) -> None:
    calm = RunSetup(tmp_path / "calm")
    expected = calm.go(calm.context(_sums(calm, seed=5), SayingEngine(adds)))
    chance = random.Random(11)
    config = _sums(run_setup, seed=5)
    deaths = 0
    while True:
        try:
            result = run_setup.go(run_setup.context(config, MortalEngine(chance.randrange(6))))
            break
        except GatewayUnavailable:
            deaths += 1
            log = run_setup.context(config, AddingEngine()).run_dir / "attempts.jsonl"
            torn = log.read_bytes() + b'{"attempt": 7, "run'
            log.write_bytes(torn[: len(torn) - chance.randrange(19)])
    assert deaths > 3
    lasting = {"accepted", "attempts", "rejected", "shards", "generations", "verified_by"}
    assert {key: result[key] for key in lasting} == {key: expected[key] for key in lasting}
    ids = [row["id"] for row in run_setup.rows()]
    assert len(ids) == len(set(ids)) == 100
    assert set(ids) == {row["id"] for row in calm.rows()}


class BrittleLedger:
    """Dies, once each, just before or just after a step is written down."""

    def __init__(self, run_setup: RunSetup) -> None:
        self._inner = run_setup.ledger
        self.deaths = [(step, when) for step in ("allot", "stage", "publish") for when in ("before", "after")]

    async def _step(self, step: str, *args: Any, **facts: Any) -> Any:
        if (step, "before") in self.deaths:
            self.deaths.remove((step, "before"))
            raise GatewayUnavailable("died")
        done = await getattr(self._inner, step)(*args, **facts)
        if (step, "after") in self.deaths:
            self.deaths.remove((step, "after"))
            raise GatewayUnavailable("died")
        return done

    async def allot(self, *args: Any) -> Any:
        return await self._step("allot", *args)

    async def stage(self, *args: Any, **facts: Any) -> None:
        await self._step("stage", *args, **facts)

    async def publish(self, *args: Any) -> None:
        await self._step("publish", *args)


def test_a_shard_is_published_once_wherever_a_run_died(run_setup: RunSetup) -> None:
    config = _sums(run_setup, num_examples=90)
    brittle = BrittleLedger(run_setup)
    taken: dict[str, bytes] = {}
    while brittle.deaths:
        context = run_setup.context(config, SayingEngine(adds))
        context.shards = brittle
        with pytest.raises(GatewayUnavailable):
            run_setup.go(context)
        for path in run_setup.layout.shards.iterdir():  # a trainer that takes every shard away at once
            assert path.name not in taken, "a shard came back"
            taken[path.name] = path.read_bytes()
            path.unlink()
    result = run_setup.go(run_setup.context(config, SayingEngine(adds)))
    for path in run_setup.layout.shards.iterdir():
        assert path.name not in taken
        taken[path.name] = path.read_bytes()
    assert sorted(taken) == result["shards"]
    assert len(taken) == 3
    ids = [json.loads(line)["id"] for content in taken.values() for line in content.splitlines()]
    assert len(ids) == len(set(ids)) == 90


def test_a_finished_run_answers_with_its_result_and_touches_nothing(run_setup: RunSetup) -> None:
    config = _sums(run_setup)
    result = run_setup.go(run_setup.context(config, SayingEngine(adds)))
    before = {path: path.stat().st_mtime_ns for path in run_setup.layout.shards.iterdir()}
    asked_again = SayingEngine(adds)
    assert run_setup.go(run_setup.context(config, asked_again)) == result
    assert asked_again.requests == []
    assert {path: path.stat().st_mtime_ns for path in run_setup.layout.shards.iterdir()} == before


def test_too_few_good_examples_are_an_honest_partial_result(run_setup: RunSetup) -> None:
    wrong = SayingEngine(lambda item: adds(item) if "1+" in prompt_of(item) else said("0"))
    result = run_setup.go(run_setup.context(_sums(run_setup), wrong))
    assert (result["accepted"], result["partial"], result["attempts"]) == (12, True, 120)
    assert result["rejected"] == {"no_right_solution": 108}
    assert len(run_setup.rows()) == 12


def test_a_run_that_brings_nothing_fails_and_says_why(run_setup: RunSetup) -> None:
    with pytest.raises(BadJob, match=r"not one example passed after 120 attempts; rejected: no_right_solution 120"):
        run_setup.go(run_setup.context(_sums(run_setup), SayingEngine(lambda _: "rubbish")))
    assert list(run_setup.layout.shards.iterdir()) == []


def test_questions_count_whatever_says_which_choice_is_right(run_setup: RunSetup) -> None:
    line = {"question": "What is 12+32?", "choices": ["1", "0"], "answer": "0"}  # an index or a text: here no matter
    (run_setup.layout.datasets / "choices.jsonl").write_text(json.dumps(line))
    result = run_setup.go(run_setup.context(_sums(run_setup, num_examples=120), SayingEngine(adds)))
    guard = result["decontamination"]
    assert (guard["datasets"], dict(guard["unreadable"])) == (["choices.jsonl"], {})
    assert [hit["question"] for hit in guard["first_removed"]] == ["What is 12+32?"]


def test_test_questions_are_removed_counted_and_listed(run_setup: RunSetup) -> None:
    run_setup.dataset("exam.jsonl", "What is 10+30?", "What is 11+31?", "Who was the first king of the old country?")
    (run_setup.layout.datasets / "foreign.jsonl").write_text('{"problem": {"text": "What is 12+32?"}, "n": 1}\n{\n')
    result = run_setup.go(run_setup.context(_sums(run_setup, num_examples=120), SayingEngine(adds)))
    guard = result["decontamination"]
    assert guard["datasets"] == ["exam.jsonl", "foreign.jsonl"]
    assert list(guard["unreadable"]) == ["foreign.jsonl"]
    assert guard["removed"] == 3 == result["rejected"]["contaminated"]
    assert {(hit["question"], hit["dataset"]) for hit in guard["first_removed"]} == {
        ("What is 10+30?", "exam.jsonl"),
        ("What is 11+31?", "exam.jsonl"),
        ("What is 12+32?", "foreign.jsonl"),
    }
    assert result["accepted"] == 117
    spared = _sums(
        run_setup, num_examples=120, decontaminate_except=["exam", "foreign.jsonl"], against_earlier_shards=False
    )
    again = run_setup.go(run_setup.context(spared, SayingEngine(adds), "data_gen_2"))
    assert again["accepted"] == 120


def test_a_test_question_inside_other_words_is_found(tmp_path: Path) -> None:
    run_setup = RunSetup(tmp_path)
    long = "The quick brown fox jumps over the lazy dog while seven wizards brew a strong dark potion"
    run_setup.dataset("exam.jsonl", "What is 10+30?", long, "Hi!")
    guard = ContaminationIndex()
    guard.add_folder(run_setup.layout.datasets, tmp_path / "cache")
    again = ContaminationIndex()
    again.add_folder(run_setup.layout.datasets, tmp_path / "cache")
    for each in (guard, again):
        assert each.hit("Please compute: what IS 10 + 30") is not None
        assert (
            each.hit("Tell me: brown fox jumps over the lazy dog while seven wizards brew a strong potion") is not None
        )
        assert each.hit("What is 10+31?") is None
        assert each.hit("hi") is not None
        assert each.hit("hi there") is None
        assert each.hit("") is None


def test_nothing_that_an_earlier_shard_has_comes_again(run_setup: RunSetup) -> None:
    run_setup.go(run_setup.context(_sums(run_setup, num_examples=50), SayingEngine(adds)))
    for path in run_setup.layout.shards.iterdir():
        path.unlink()  # a trainer took them: they were given all the same
    result = run_setup.go(run_setup.context(_sums(run_setup, num_examples=120), SayingEngine(adds), "data_gen_2"))
    assert result["accepted"] == 70
    assert result["rejected"] == {"duplicate_of_earlier_shard": 50}


def test_near_duplicates_go_and_other_numbers_are_not_near(run_setup: RunSetup) -> None:
    texts = [
        "Anna has 3 red apples in her old wooden basket today, and Ben has none at all. How many?",
        "Anna has 3 red apples in her old wooden basket today and Ben has none at all! How many",
        "Anna has 3 red apples in her big wooden basket today, and Ben has none at all. How many?",
        "Anna has 4 red apples in her old wooden basket today, and Ben has none at all. How many?",
    ]
    rows = [{"text": text} for text in texts]
    result = run_setup.run(SayingEngine(lambda _: "Some."), "custom", template="{{text}}", rows=rows)
    assert result["accepted"] == 2
    assert result["rejected"] == {"duplicate": 1, "near_duplicate": 1}


def test_other_weights_than_the_run_was_begun_with_are_refused(run_setup: RunSetup) -> None:
    config = _sums(run_setup)
    context = run_setup.context(config, MortalEngine(6))
    with pytest.raises(GatewayUnavailable):
        run_setup.go(context)
    later = run_setup.context(config, SayingEngine(adds))
    later.model = later.model.model_copy(update={"digest": "sha256:bb"})
    with pytest.raises(WrongWeights):
        run_setup.go(later)


def test_a_cancelled_run_ends_at_once_and_keeps_what_it_has(run_setup: RunSetup) -> None:
    config = _sums(run_setup)
    with pytest.raises(JobCancelled):
        run_setup.go(run_setup.context(config, SayingEngine(adds), cancel_after=40))
    engine = SayingEngine(adds)
    result = run_setup.go(run_setup.context(config, engine))
    assert result["accepted"] == 100
    assert len(engine.items) < 80


@contextmanager
def room(size_bytes: int) -> Iterator[None]:
    """No file may become larger: a write ends in its middle, as on a disk that becomes full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("shard_size", [1000, 30])
def test_a_full_disk_pauses_the_job_which_goes_on_without_a_torn_line(run_setup: RunSetup, shard_size: int) -> None:
    """The log is what does not fit first; with small shards some are out by then."""
    config = _sums(run_setup, system_prompt="Think. " * 500, shard_size=shard_size)
    context = run_setup.context(config, SayingEngine(adds))
    with pytest.raises(JobPaused, match="is full"), room(380_000):
        run_setup.go(context)
    log = (context.run_dir / "attempts.jsonl").read_text()
    assert log.endswith("}\n")
    assert 0 < len(log.splitlines()) < 100
    for path in run_setup.layout.shards.iterdir():
        assert len(path.read_text().splitlines()) == shard_size
    assert run_setup.go(run_setup.context(config, SayingEngine(adds)))["accepted"] == 100
    assert len({row["id"] for row in run_setup.rows()}) == len(run_setup.rows()) == 100


@pytest.mark.parametrize(
    ("format_", "keys"),
    [
        ("alpaca", {"id", "instruction", "input", "output", "metadata"}),
        ("sharegpt", {"id", "conversations", "metadata"}),
    ],
)
def test_other_formats_in_a_folder_of_ones_own(run_setup: RunSetup, format_: str, keys: set[str]) -> None:
    run_setup.go(
        run_setup.context(
            _sums(run_setup, num_examples=5, format=format_, output_dir="out/of-mine"), SayingEngine(adds)
        )
    )
    rows = run_setup.rows("out/of-mine")
    assert len(rows) == 5
    assert all(set(row) == keys for row in rows)
    second = run_setup.go(run_setup.context(_sums(run_setup, num_examples=120), SayingEngine(adds), "data_gen_2"))
    assert second["rejected"] == {"duplicate_of_earlier_shard": 5}


def test_chunks_keep_the_window_full_and_never_overfill_it(run_setup: RunSetup) -> None:
    class Watched(SayingEngine):
        out = most = 0

        async def generate(self, request: BatchRequest) -> BatchResult:
            self.out += len(request.items)
            self.most = max(self.most, self.out)
            try:
                await asyncio.sleep(0.001)
                return await super().generate(request)
            finally:
                self.out -= len(request.items)

    engine = Watched(adds)
    run_setup.go(run_setup.context(_sums(run_setup), engine))
    assert engine.most == 8
    assert sum(len(request.items) == 4 for request in engine.requests) > 0.7 * len(engine.requests)


def test_answers_do_not_pile_up_before_they_are_judged(run_setup: RunSetup) -> None:
    """An engine that answers faster than examples are judged must not fill the memory."""
    rows = [{"a": a, "b": b} for a in range(100, 140) for b in range(1000, 1050)]
    config = _sums(run_setup, rows=rows, num_examples=len(rows))
    context = run_setup.context(config, SayingEngine(adds), batch_items=16, batch_window_items=64)
    log = context.run_dir / "attempts.jsonl"

    class Quick(SayingEngine):
        most = 0

        async def generate(self, request: BatchRequest) -> BatchResult:
            asked = len(self.items) + len(request.items)
            self.most = max(self.most, asked - log.read_bytes().count(b"\n"))
            return await super().generate(request)

    context.engine = engine = Quick(adds)
    assert run_setup.go(context)["accepted"] == len(rows)
    assert engine.most <= context.batch_window_items + context.batch_items
