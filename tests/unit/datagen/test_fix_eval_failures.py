"""From an eval run to examples of what it showed to be missing."""

import asyncio
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datagen.failures import cause_of, half_of
from datagen.variants import with_other_numbers, written_variant
from stepserve.contract import BatchItem, BatchOutput, BatchRequest, BatchResult, ModelRef
from stepserve.jobs.errors import BadJob, ModelNotServed
from tests.unit.datagen.run_setup import RunSetup, SayingEngine, prompt_of, said

EVAL_ID = "eval_20251122_053000_k3f9"


@pytest.fixture
def run_setup(tmp_path: Path) -> RunSetup:
    return RunSetup(tmp_path)


def eval_run(run_setup: RunSetup, records: list[dict[str, Any]], dataset: str = "exam.jsonl") -> None:
    folder = run_setup.layout.runs / "eval" / EVAL_ID
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text("{}")
    (folder / "config.json").write_text(json.dumps({"dataset": {"name": dataset}}))
    plain = {"error": None, "finish_reason": "stop", "prediction": "0", "correct": False}
    lines = [json.dumps({**plain, "id": str(n), **record}) for n, record in enumerate(records)]
    (folder / "samples.jsonl").write_text("\n".join(lines) + "\n")


def sums(count: int) -> list[dict[str, Any]]:
    """Every third was passed."""
    pairs = [(10 + n % 7, 20 + n) for n in range(count)]
    return [
        {"input": f"What is {a}+{b}?", "target": str(a + b), "correct": n % 3 == 0} for n, (a, b) in enumerate(pairs)
    ]


def often_right(item: BatchItem) -> BatchOutput:
    """Wrong when asked without sampling, right by half the seeds."""
    a, b = prompt_of(item).removeprefix("What is ").removesuffix("?").split("+")
    assert item.sampling is not None
    right = item.sampling.seed is not None and item.sampling.seed % 2 == 0
    return said(str(int(a) + int(b) + (not right)))


def test_gaps_become_verified_examples_and_no_eval_question_does(run_setup: RunSetup) -> None:
    records = sums(60)
    eval_run(run_setup, records)
    run_setup.dataset("exam.jsonl", *(record["input"] for record in records))
    result = run_setup.run(
        SayingEngine(often_right), "fix_eval_failures", source_eval_run_id=EVAL_ID, num_samples=80, replay_share=0.25
    )
    rows = run_setup.rows()
    assert len(rows) == result["accepted"] == 80
    asked = {row["messages"][0]["content"] for row in rows}
    assert not asked & {record["input"] for record in records}
    for row in rows:
        a, b = row["messages"][0]["content"][8:-1].split("+")
        assert row["messages"][1]["content"] == str(int(a) + int(b)) == row["metadata"]["answer"]
        assert row["metadata"]["verify_method"] == "executed"
        assert 0 < row["metadata"]["verify_score"] <= 1
    replayed = [row for row in rows if "replay" in row["metadata"]["tags"]]
    assert len(replayed) == result["replayed"]
    assert 15 <= len(replayed) <= 21
    dev = {str(n) for n, record in enumerate(records) if half_of(record["input"]) == "dev"}
    assert {row["metadata"]["source_id"] for row in rows} <= dev
    assert result["split"]["dev_questions"] == len(dev)
    assert result["split"]["used"] == "dev"


class AllAtOnce(SayingEngine):
    """Answers nothing before everyone who will ask has asked, and then all of them together, as an engine with room for
    all of a job does."""

    asking = 0
    _settling: asyncio.Task[None] | None = None

    async def generate(self, request: BatchRequest) -> BatchResult:
        self.asking += 1
        if self._settling is None:
            self._settling = asyncio.create_task(self._settle())
        await asyncio.shield(self._settling)
        return await super().generate(request)

    async def _settle(self) -> None:
        asked = 0
        while asked < self.asking:
            asked = self.asking
            for _ in range(50):
                await asyncio.sleep(0)
        self._settling = None


def all_at_once(run_setup: RunSetup, answer: Callable[[BatchItem], BatchOutput], num_samples: int) -> dict[str, Any]:
    """A quarter of the examples are to be replays."""
    config = {"source_eval_run_id": EVAL_ID, "num_samples": num_samples, "replay_share": 0.25}
    checked = run_setup.check("fix_eval_failures", **config)
    return run_setup.go(run_setup.context(checked, AllAtOnce(answer), batch_items=128, batch_window_items=1024))


def test_replays_have_their_share_when_all_answers_come_at_once(run_setup: RunSetup) -> None:
    eval_run(run_setup, sums(60))
    result = all_at_once(run_setup, often_right, num_samples=80)
    assert result["accepted"] == 80
    assert 12 <= result["replayed"] <= 21


def test_replays_do_not_take_over_where_repairs_hardly_succeed(run_setup: RunSetup) -> None:
    eval_run(run_setup, sums(60))

    def hardly_ever(item: BatchItem) -> BatchOutput:
        assert item.sampling is not None
        a, b = prompt_of(item).removeprefix("What is ").removesuffix("?").split("+")
        return said(str(int(a) + int(b) + (item.sampling.seed is None or item.sampling.seed % 64 > 0)))

    result = all_at_once(run_setup, hardly_ever, num_samples=40)
    assert result["accepted"] > 20, "its attempts may be used up before there are 40"
    assert result["replayed"] <= 10


def test_the_dev_halfs_own_questions_where_they_are_asked_for(run_setup: RunSetup) -> None:
    """By their gold answers, past decontamination; the test half stays sealed."""
    records = [
        {"input": f"How old is the {name}?", "target": str(40 + n)}
        for n, name in enumerate("oak elm ash yew fir bay box fig gum lime palm pear pine plum rowan teak".split())  # noqa: SIM905 - as words
    ]
    eval_run(run_setup, records)
    run_setup.dataset("exam.jsonl", *(record["input"] for record in records))
    dev = {record["input"]: record["target"] for record in records if half_of(record["input"]) == "dev"}
    assert 0 < len(dev) < len(records)
    answers = {record["input"]: record["target"] for record in records}
    result = run_setup.run(
        SayingEngine(lambda item: answers.get(prompt_of(item), "no idea")),
        "fix_eval_failures",
        source_eval_run_id=EVAL_ID,
        emit_dev_questions=True,
        num_examples=len(records),
        max_attempts=len(dev),
    )
    rows = run_setup.rows()
    assert {row["messages"][0]["content"]: row["metadata"]["answer"] for row in rows} == dev
    assert result["verified_by"] == {"gold": len(dev)}
    assert all("dev_question" in row["metadata"]["tags"] for row in rows)


def test_what_is_not_a_gap_in_knowledge_is_left_alone(run_setup: RunSetup) -> None:
    questions = [record["input"] for record in sums(40) if half_of(record["input"]) == "dev"]
    causes = [{"error": "too long"}, {"finish_reason": "length"}, {"prediction": " "}, {}]
    eval_run(run_setup, [{"input": question, "target": "1", **causes[n % 4]} for n, question in enumerate(questions)])
    result = run_setup.run(SayingEngine(often_right), "fix_eval_failures", source_eval_run_id=EVAL_ID, num_examples=3)
    assert set(result["triage"]) == {"engine_error", "truncated", "unparsed", "knowledge"}
    assert result["failures_used"] == result["triage"]["knowledge"] < len(questions) / 2


@pytest.mark.parametrize(
    ("record", "cause"),
    [
        ({"correct": True}, "passed"),
        ({"error": "x", "correct": False}, "engine_error"),
        ({"finish_reason": "length", "prediction": "1 2 3"}, "truncated"),
        ({"prediction": ""}, "unparsed"),
        ({"prediction": "dunno", "scores": {"numeric": {"parsed": False}}}, "unparsed"),
        ({"prediction": "7", "scores": {"numeric": {"parsed": True}}}, "knowledge"),
    ],
)
def test_triage(record: dict[str, Any], cause: str) -> None:
    assert cause_of(record) == cause


def test_a_dev_split_of_the_dataset_is_kept_to(run_setup: RunSetup) -> None:
    records = sums(30)
    lines = [
        {"id": str(n), "question": record["input"], "answer": "0", "split": "dev" if n < 9 else "test"}
        for n, record in enumerate(records)
    ]
    (run_setup.layout.datasets / "exam.jsonl").write_text("\n".join(map(json.dumps, lines)))
    eval_run(run_setup, records)
    result = run_setup.run(SayingEngine(often_right), "fix_eval_failures", source_eval_run_id=EVAL_ID, num_examples=20)
    assert result["split"] | {"dev_questions": 9, "test_questions": 21} == result["split"]
    assert {int(row["metadata"]["source_id"]) for row in run_setup.rows()} <= set(range(9))


def test_what_cannot_be_verified_is_not_kept(run_setup: RunSetup) -> None:
    """Word problems have no executable answer: the majority decides, if a second prompt agrees with it."""
    story = "Anna has {} red apples and buys {} more at the market. How many has she now?"
    eval_run(run_setup, [{"input": story.format(10 + n, 20 + n), "target": "1"} for n in range(30)])

    def answer(item: BatchItem) -> str:
        text = prompt_of(item)
        numbers = [int(part) for part in text.replace(".", " ").split() if part.isdigit()]
        total = sum(numbers)
        if item.sampling is not None and item.sampling.seed is None:  # the second opinion
            return f"Let me see.\n{total if total % 2 else 0}"
        assert item.sampling is not None
        split = total % 3 == 0 and (item.sampling.seed or 0) % 2 == 0
        return f"She has {total + (1 + (item.sampling.seed or 0) % 97) * split}"

    result = run_setup.run(
        SayingEngine(answer), "fix_eval_failures", source_eval_run_id=EVAL_ID, num_examples=40, max_attempts=300
    )
    assert result["accepted"] == 40
    assert {"no_majority", "second_opinion_differs"} <= set(result["rejected"])
    for row in run_setup.rows():
        total = int(row["metadata"]["answer"])
        assert total % 2 == 1
        assert row["metadata"]["verify_method"] == "majority"
        assert row["metadata"]["verify_score"] >= 0.6


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda _: None, "there is no eval run"),
        (lambda run: run.mkdir(parents=True), "is not over: wait until it is done"),
        (lambda run: (run.mkdir(parents=True), (run / "metrics.json").write_text("{}")), "kept no samples"),
    ],
)
def test_an_eval_run_that_cannot_be_used_is_refused(run_setup: RunSetup, prepare: Any, message: str) -> None:
    prepare(run_setup.layout.runs / "eval" / EVAL_ID)
    assert message in run_setup.refusal("fix_eval_failures", source_eval_run_id=EVAL_ID)
    assert "is not the id of an eval job" in run_setup.refusal("fix_eval_failures", source_eval_run_id="../../etc")


def test_an_eval_without_failures_is_refused(run_setup: RunSetup) -> None:
    eval_run(run_setup, [{**record, "correct": True} for record in sums(10)])
    assert "no usable wrong answers" in run_setup.refusal("fix_eval_failures", source_eval_run_id=EVAL_ID)


def test_an_eval_run_that_changed_since_is_not_gone_on_with(run_setup: RunSetup) -> None:
    eval_run(run_setup, sums(40))
    config = run_setup.check("fix_eval_failures", source_eval_run_id=EVAL_ID)
    with (run_setup.layout.runs / "eval" / EVAL_ID / "samples.jsonl").open("a") as file:
        file.write(json.dumps({"id": "more", "input": "What is 1+1?", "target": "2"}) + "\n")
    with pytest.raises(BadJob, match="changed after the job was made"):
        run_setup.go(run_setup.context(config, SayingEngine(often_right)))


def test_other_numbers_keep_their_shape() -> None:
    chance = random.Random(1)
    for _ in range(200):
        made = with_other_numbers("Take 12 of 305 and 12 at 4.50 each from Route66", chance)
        assert made is not None
        first, rest = made.removeprefix("Take ").split(" of ", 1)
        assert 10 <= int(first) <= 99
        assert 100 <= int(rest.split(" and ")[0]) <= 999
        assert rest.split(" and ")[1].split(" at ")[0] == first
        assert len(rest.split(" at ")[1].split(" each")[0]) == 4
        assert made.endswith("Route66")
    assert with_other_numbers("No numbers here", chance) is None


def test_a_written_variant_is_another_problem() -> None:
    assert written_variant("New problem: Tom has two cats.", "Ann has two dogs.") == "Tom has two cats."
    assert written_variant("ann has  two dogs", "Ann has two dogs.") is None
    assert written_variant("", "Ann has two dogs.") is None


class TeacherAndStudent(SayingEngine):
    """The job's model solves everything; the student, `student`, nothing above 40."""

    def __init__(self) -> None:
        super().__init__(lambda _: "")
        self.asked_student = 0

    async def generate(self, request: BatchRequest) -> BatchResult:
        is_student = request.model == STUDENT.id
        self.asked_student += is_student * len(request.items)
        outputs = []
        for item in request.items:
            a, b = prompt_of(item).removeprefix("What is ").removesuffix("?").split("+")
            total = int(a) + int(b)
            outputs.append(said(str(total + (is_student and total > 40))))
        return BatchResult(model=request.model, digest=request.digest, outputs=outputs)


STUDENT = ModelRef(id="student", path="/models/student", digest="sha256:student")


def of_student(run_setup: RunSetup) -> None:
    """The eval run was of the student."""
    eval_run(run_setup, sums(60))
    file = run_setup.layout.runs / "eval" / EVAL_ID / "config.json"
    model = {"id": STUDENT.id, "path": STUDENT.path, "digest": STUDENT.digest}
    file.write_text(json.dumps({**json.loads(file.read_text()), "model": model}))


ASKED: dict[str, Any] = {"source_eval_run_id": EVAL_ID, "num_samples": 40, "samples": 1, "replay_share": 0}


def test_what_is_unsolved_is_for_the_student_to_say_and_the_teacher_solves_it(run_setup: RunSetup) -> None:
    of_student(run_setup)
    engine = TeacherAndStudent()
    context = run_setup.context(run_setup.check("fix_eval_failures", **ASKED), engine)
    context.others = {STUDENT.id: STUDENT}
    result = run_setup.go(context)
    assert (result["accepted"], result["unsolved_by"]) == (40, "student")
    assert engine.asked_student >= 40
    answers = [int(row["metadata"]["answer"]) for row in run_setup.rows()]
    assert min(answers) > 40, "what the student solves teaches it nothing"


@pytest.mark.parametrize("case", ["gone", "other weights", "no room"])
def test_without_the_evals_model_its_stored_answers_say_what_is_unsolved(run_setup: RunSetup, case: str) -> None:
    of_student(run_setup)
    engine = TeacherAndStudent()
    context = run_setup.context(run_setup.check("fix_eval_failures", **ASKED), engine)
    other = STUDENT.model_copy(update={"digest": "sha256:other"})
    context.others = {} if case == "gone" else {STUDENT.id: other if case == "other weights" else STUDENT}
    context.no_room = case == "no room"
    result = run_setup.go(context)
    assert (result["accepted"], result["unsolved_by"], engine.asked_student) == (40, "stored answers", 0)


def test_a_student_that_is_named_has_to_be_there(run_setup: RunSetup) -> None:
    of_student(run_setup)
    context = run_setup.context(run_setup.check("fix_eval_failures", **ASKED, student="nobody"), TeacherAndStudent())
    with pytest.raises(BadJob, match=r"config\.student: there is no model 'nobody'"):
        run_setup.go(context)
    context.others, context.no_room = {"nobody": STUDENT}, True
    with pytest.raises(ModelNotServed):
        run_setup.go(context)


def test_the_model_of_the_eval_teaches_itself(run_setup: RunSetup) -> None:
    eval_run(run_setup, sums(60))
    result = run_setup.run(SayingEngine(often_right), "fix_eval_failures", **{**ASKED, "samples": 8})
    assert result["unsolved_by"] == "teacher"
