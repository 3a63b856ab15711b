"""The report on a job's examples, limits that fail a job, and why things were dropped."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datagen.ngrams import ngram_hashes
from datagen.quality.config import QualityLimits
from datagen.quality.limits import VALUES
from datagen.quality.sketches import KEPT, Commonest, DistinctCount, Lengths
from datagen.rejections import page
from datagen.tokens import as_letters, words
from stepserve.jobs.datagen_ports import RejectionQuery
from stepserve.jobs.errors import BadJob, Conflict, Invalid, JobError
from stepserve.jobs.ports import CardUse
from tests.unit.datagen.run_setup import JOB_ID, RunSetup, SayingEngine
from tests.unit.evals.adding_engine import add

SUMS: dict[str, Any] = {"template": "What is {{a}}+{{b}}?", "verify": "executed", "num_examples": 100}


def _rows(count: int) -> list[dict[str, int]]:
    return [{"a": 10 + number, "b": 20} for number in range(count)]


def _report(run_setup: RunSetup, job: str = JOB_ID) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_setup.layout.runs / "data_gen" / job / "report.json").read_text())
    return found


def test_a_job_and_each_shard_have_a_report(tmp_path: Path) -> None:
    run_setup = RunSetup(tmp_path / "base")
    context = run_setup.context(run_setup.check("custom", **SUMS, rows=_rows(30), shard_size=8), SayingEngine(add))
    context.card_use = CardUse(gpu_seconds=2.0, energy={"joules": 210.0, "joules_per_1000_tokens": 1.0})
    result = run_setup.go(context)
    report = _report(run_setup)
    rows = run_setup.rows()
    job = report["job"]
    assert job["rows"] == result["accepted"] == len(rows) < 30
    assert [shard["rows"] for shard in report["shards"]] == [8, 8, len(rows) - 16]
    assert [shard["name"] for shard in report["shards"]] == result["shards"]
    assert job["diversity"]["distinct_questions"] == len(rows)
    assert job["diversity"]["shapes"] == [{"value": "What is #+#?", "rows": len(rows)}]
    assert job["numbers"]["by_digits"] == {"2": 2 * len(rows)}
    assert job["numbers"]["distinct"] == len({text for row in rows for text in words(_asked(row)) if text.isdecimal()})
    assert job["lengths"]["question_chars"] | {"histogram": 0} == {
        "mean": 14.0, "min": 14, "p5": 14, "p50": 14, "p95": 14, "max": 14, "histogram": 0,
    }  # fmt: skip
    assert job["verified"]["by_method"] == {"executed": len(rows)}
    assert job["verified"]["mean_agreement"] == 1.0
    spent = report["yield"]["by_verifier"]["executed"]
    assert spent["failed"] == result["rejected"]["no_right_solution"] > 0
    assert spent["yield"] == round(len(rows) / (len(rows) + spent["failed"]), 4)
    assert report["cost"]["joules_per_row"] == round(210 / len(rows), 4)
    assert report["cost"]["tokens_per_row"] == round(result["tokens_per_accepted_example"], 4)


class Killed(BaseException):
    pass


def _asked(row: dict[str, Any]) -> str:
    return str(row["messages"][0]["content"])


def test_known_sets_are_compared_with_even_where_nothing_was_removed_for_them(tmp_path: Path) -> None:
    run_setup = RunSetup(tmp_path / "base")
    run_setup.dataset("exam.jsonl", "What is 11+20?", "What is 14+20?")
    run_setup.dataset("other.jsonl", "What is 12+20?")
    config = SUMS | {"rows": _rows(8), "decontaminate": False, "quality": {"known_sets": ["exam"]}}
    run_setup.run(SayingEngine(add), "custom", **config)
    found = _report(run_setup)["job"]["contamination"]
    assert (found["known_sets"], found["by_set"], found["rows"]) == (["exam.jsonl"], {"exam.jsonl": 2}, 2)
    assert [hit["sample"] for hit in found["first"]] == [1, 2]
    assert "config.quality.known_sets" in run_setup.refusal("custom", **SUMS | {"quality": {"known_sets": ["none"]}})


def test_a_packed_set_is_known_by_its_name_too(tmp_path: Path) -> None:
    run_setup = RunSetup(tmp_path / "base")
    run_setup.dataset("exam.jsonl", "What is 11+20?")
    exam = run_setup.layout.datasets / "exam.jsonl"
    exam.with_name("exam.jsonl.gz").write_bytes(gzip.compress(exam.read_bytes()))
    exam.unlink()
    config = SUMS | {"rows": _rows(8), "decontaminate": False, "quality": {"known_sets": ["exam"]}}
    run_setup.run(SayingEngine(add), "custom", **config)
    assert _report(run_setup)["job"]["contamination"]["by_set"] == {"exam.jsonl.gz": 1}


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"min_rows": 1000}, "min_rows: at least 1000 was asked for, it is"),
        ({"max_tokens_per_row": 0.5}, "max_tokens_per_row: at most 0.5 was asked for, it is"),
        ({"max_joules_per_row": 1.0}, "max_joules_per_row: at most 1 was asked for, it is not known here"),
    ],
)
def test_a_job_that_misses_a_limit_fails_and_publishes_nothing(
    tmp_path: Path, limits: dict[str, float], said: str
) -> None:
    run_setup = RunSetup(tmp_path / "base")
    config = SUMS | {"rows": _rows(12), "shard_size": 2, "quality": {"limits": limits}}
    for _ in range(2):  # a second attempt ends the same way
        with pytest.raises(BadJob, match=f"config.quality.limits.{said}.*nothing was published"):
            run_setup.run(SayingEngine(add), "custom", **config)
        assert run_setup.rows() == []
    report = _report(run_setup)
    assert (report["published"], report["limits"][0]["is_kept"]) == (False, False)
    assert report["job"]["rows"] > 2


def test_what_a_killed_job_began_to_publish_is_published_whatever_is_known_by_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_setup = RunSetup(tmp_path / "base")
    run_setup.dataset("exam.jsonl", "What is 1+99?")
    quality = {"limits": {"max_contaminated_share": 0.0}}
    config = SUMS | {"rows": _rows(12), "shard_size": 2, "decontaminate": False, "quality": quality}
    publish, published = run_setup.ledger.publish, list[str]()

    async def dies_at_the_second(name: str) -> None:
        published.append(name)
        if len(published) == 2:
            raise Killed
        await publish(name)

    monkeypatch.setattr(run_setup.ledger, "publish", dies_at_the_second)
    with pytest.raises(Killed):
        run_setup.run(SayingEngine(add), "custom", **config)
    begun = run_setup.rows()
    run_setup.dataset("more.jsonl", *(_asked(row) for row in begun))
    run_setup.run(SayingEngine(add), "custom", **config)
    assert len(run_setup.rows()) > len(begun)
    assert _report(run_setup)["published"]


def test_limits_that_are_kept_change_no_shard(tmp_path: Path) -> None:
    made = []
    for name, limits in (("a", {}), ("b", {"min_rows": 3, "min_verified_share": 1.0, "max_source_share": 0.5})):
        run_setup = RunSetup(tmp_path / name)
        config = SUMS | {"rows": _rows(30), "shard_size": 4, "seed": 7, "quality": {"limits": limits}}
        run_setup.run(SayingEngine(add), "custom", **config)
        made.append([(_asked(row), row["messages"][1]["content"]) for row in run_setup.rows()])
        assert _report(run_setup)["published"]
    assert made[0] == made[1] != []


def test_every_limit_has_a_value_it_is_held_against() -> None:
    assert set(VALUES) == set(QualityLimits.model_fields)


def test_a_failed_job_has_a_report_too(tmp_path: Path) -> None:
    run_setup = RunSetup(tmp_path / "base")
    with pytest.raises(JobError, match="not one example passed"):
        run_setup.run(SayingEngine(lambda _: "no"), "custom", **SUMS | {"rows": _rows(3)})
    report = _report(run_setup)
    assert (report["published"], report["job"]["rows"]) == (False, 0)
    assert sum(report["yield"]["rejected"].values()) == 3


def test_what_was_dropped_can_be_paged_through(tmp_path: Path) -> None:
    run_setup = RunSetup(tmp_path / "base")
    run_dir = run_setup.layout.runs / "data_gen" / JOB_ID
    with pytest.raises(Conflict):
        page(run_dir, RejectionQuery())
    config = SUMS | {"rows": [*_rows(20), *_rows(20)], "filters": []}
    result = run_setup.run(SayingEngine(add), "custom", **config)
    for reason, count in (None, result["rejected_total"]), ("duplicate", result["rejected"]["duplicate"]):
        found: list[dict[str, Any]] = []
        after: str | None = None
        while True:
            got = page(run_dir, RejectionQuery(reason, after, limit=3))
            found += got["rejected"]
            after = got["next"]
            if after is None:
                break
            assert len(got["rejected"]) == 3
        assert len(found) == count
        assert len({json.dumps(one) for one in found}) == count
    assert got["by_reason"] == result["rejected"]
    assert found[0]["why"].startswith("the same as ")
    for odd in ("1.x", f"{10**30}.0", f"0.{'9' * 30}"):
        with pytest.raises(Invalid, match="after"):
            page(run_dir, RejectionQuery(after=odd))


def test_distinct_counts_are_exact_when_few_and_close_when_many() -> None:
    chance = np.random.default_rng(1)
    few, many, halves = DistinctCount(), DistinctCount(), [DistinctCount(), DistinctCount()]
    some = chance.integers(0, 2**64, KEPT - 1, dtype=np.uint64, endpoint=False)
    few.add(some)
    few.add(some)
    assert (few.count, few.is_exact) == (len(np.unique(some)), True)
    for number in range(20):
        part = chance.integers(0, 2**64, 15_000, dtype=np.uint64, endpoint=False)
        many.add(part)
        halves[number % 2].add(part)
    assert many.count == pytest.approx(300_000, rel=0.03)
    halves[0].merge(halves[1])
    assert halves[0].count == many.count


def test_ngrams_are_told_apart_by_words_and_order() -> None:
    texts = ["what is 1 + 2", "what is 2 + 1", "is what 1 + 2", "what is 1 + 2"]
    hashes = [tuple(ngram_hashes(as_letters(words(text)), 2).tolist()) for text in texts]
    assert hashes[0] == hashes[3]
    assert len(set(hashes)) == 3
    assert len(ngram_hashes(as_letters(["one"]), 2)) == 0


def test_common_values_and_lengths_stay_bounded() -> None:
    common, lengths = Commonest(10), Lengths()
    for number in range(1000):
        common.add("often")
        common.add(str(number))
        lengths.add(number)
    assert common.top(1) == [("often", 1000)]
    assert not common.is_exact
    shown = lengths.shown()
    assert (shown["p5"], shown["p50"], shown["p95"], shown["max"]) == (49, 499, 949, 999)
    assert sum(shown["histogram"].values()) == 1000
