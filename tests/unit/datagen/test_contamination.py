"""Which questions of an eval set training text gives away."""

import asyncio
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from datagen.contamination import Source, contamination
from datagen.contamination_reports import ContaminationReports
from evals.errors import EvalError
from stepserve.jobs.errors import Conflict

LONG = (
    "A farmer in the north of Norway keeps twelve reindeer and sells three of them each autumn to a neighbour who pays"
    " with firewood. How many reindeer does she have after two years?"
)
QUESTIONS = [
    LONG,
    "What is 17+25?",
    "Name the largest moon of Saturn and the year in which it was discovered.",
    "What is 4+4?",
]


def write(path: Path, rows: list[Any]) -> Path:
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)
    return path


def report(tmp_path: Path, *rows: Any, name: str = "shard.jsonl") -> dict[str, Any]:
    dataset = write(tmp_path / "eval.jsonl", [{"question": question, "answer": "1"} for question in QUESTIONS])
    source = Source("shard", "shard", str(write(tmp_path / name, list(rows))))
    return contamination(dataset, [source], tmp_path)


def said(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "I do not know that."}]}


def test_what_has_nothing_in_common_is_clean(tmp_path: Path) -> None:
    found = report(
        tmp_path, said("What is 18+25?"), said("Name the smallest moon of Mars, and who discovered it when.")
    )
    assert (found["samples"], found["contaminated"], found["share"], found["questions"]) == (4, 0, 0.0, [])
    assert found["sources"] == [
        {"name": "shard", "kind": "shard", "rows": 2, "ngram": 0, "near_duplicate": 0, "error": None}
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["eval.jsonl", "shard.jsonl"]


@pytest.mark.parametrize("name", ["shard.jsonl", "shard.jsonl.gz"])
def test_a_question_inside_another_text_is_found_with_its_place(tmp_path: Path, name: str) -> None:
    text = f"Here is a story. {LONG.upper()} Think about it!"
    found = report(tmp_path, said("nothing at all"), said(text), said(text), name=name)
    (leak,) = found["questions"]
    assert (leak["sample"], leak["by"], leak["source"], leak["line"], leak["rows"]) == (1, "ngram", "shard", 2, 2)
    assert leak["overlap"] == 1.0
    assert leak["text"].startswith("Here is a story.")
    assert found["sources"][0]["ngram"] == 2


def test_a_part_of_a_question_counts_by_its_share(tmp_path: Path) -> None:
    half = " ".join(LONG.split()[:20])
    (leak,) = report(tmp_path, said(half))["questions"]
    assert 0.1 < leak["overlap"] < 0.5
    few = " ".join(LONG.split()[:12])
    assert report(tmp_path, said(few))["contaminated"] == 0, "twelve words are not a run of thirteen"


def test_a_question_in_other_words_is_a_near_duplicate(tmp_path: Path) -> None:
    text = "Name the biggest moon of Saturn and the year in which it was first discovered."
    found = report(tmp_path, said(text))
    (leak,) = found["questions"]
    assert (leak["sample"], leak["by"], leak["overlap"]) == (3, "near_duplicate", 0.0)
    assert 0.8 <= leak["similarity"] < 1
    assert (found["ngram"], found["near_duplicate"], found["contaminated"]) == (0, 1, 1)


def test_other_numbers_are_another_question(tmp_path: Path) -> None:
    assert report(tmp_path, said("What is 17+26?"), said("What is 4+5?"))["contaminated"] == 0
    found = report(tmp_path, said("what is 17 + 25"), said("What is 4+4?"))
    assert [leak["sample"] for leak in found["questions"]] == [2, 4]


def test_text_of_any_shape_is_looked_through(tmp_path: Path) -> None:
    for row in ({"text": LONG}, {"a": [{"b": {"c": LONG}}]}, LONG, [1, LONG]):
        assert report(tmp_path, row)["contaminated"] == 1, row


def test_a_source_that_cannot_be_read_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    dataset = write(tmp_path / "eval.jsonl", [{"question": LONG, "answer": "1"}])
    torn = tmp_path / "torn.jsonl.gz"
    torn.write_bytes(gzip.compress(json.dumps(said(LONG)).encode() * 100)[:-20])
    sources = [
        Source("gone", "shard", str(tmp_path / "gone.jsonl")),
        Source("torn", "dataset", str(torn)),
        Source("good", "shard", str(write(tmp_path / "good.jsonl", [said(LONG)]))),
    ]
    found = contamination(dataset, sources, tmp_path)
    errors = {source["name"]: source["error"] for source in found["sources"]}
    assert errors["good"] is None
    assert errors["gone"]
    assert errors["torn"]
    assert found["questions"][0]["source"] == "good"


def test_a_dataset_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EvalError):
        contamination(write(tmp_path / "eval.jsonl", [{"odd": 1}]), [], tmp_path)


def test_reports_do_not_pile_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(17):
        write(tmp_path / f"{number}.jsonl", [{"question": "What is 1+1?", "answer": "2"}])

    async def scenario() -> None:
        may_end = asyncio.Event()

        async def made(_reports: ContaminationReports, _asked: dict[str, Any]) -> dict[str, Any]:
            await may_end.wait()
            return {"samples": 1}

        monkeypatch.setattr(ContaminationReports, "_make", made)
        reports = ContaminationReports()

        async def asked(number: int) -> dict[str, Any]:
            return await reports.report(str(number), tmp_path, (), ())

        waiting = {asyncio.create_task(asked(number)) for number in [*range(17), *range(17)]}
        refused: set[asyncio.Task[dict[str, Any]]] = set()
        while len(refused) < 2:  # the seventeenth, by both who ask for it
            refused |= (await asyncio.wait(waiting - refused, return_when=asyncio.FIRST_COMPLETED))[0]
        may_end.set()
        await asyncio.wait(waiting)
        assert all(isinstance(task.exception(), Conflict) for task in refused)
        assert sum(task.exception() is None for task in waiting) == 32
        assert (await asked(0))["dataset"] == "0.jsonl"

    asyncio.run(asyncio.wait_for(scenario(), 240))
