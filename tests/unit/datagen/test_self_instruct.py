"""New tasks from a few: on an engine that plays a model which follows instructions."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from datagen.seeds import shipped_seeds
from datagen.similarity import Fingerprint, rouge_l
from datagen.strategies.self_instruct import (
    instances,
    labelled_instances,
    objection,
    parsed_instructions,
    sound,
    task_text,
)
from stepserve.contract import BatchItem, BatchOutput
from tests.unit.datagen.run_setup import RunSetup, SayingEngine, prompt_of, said

THINGS = [
    "river", "lamp", "garden", "letter", "harbour", "violin", "engine", "forest", "kitchen", "winter", "mirror",
    "market",
]  # fmt: skip
VERBS = [
    "Describe", "Compare", "Explain", "Summarise", "Praise", "Question", "Rename", "Translate", "Defend", "Repair",
]  # fmt: skip


class Pupil:
    """Answers every kind of prompt of the pipeline; `number` makes its tasks differ."""

    def __init__(self) -> None:
        self.number = 0
        self.shown: list[int] = []

    def __call__(self, item: BatchItem) -> BatchOutput:
        text = prompt_of(item)
        if text.startswith("Come up with"):
            self.shown.append(len(re.findall(r"^\d+\. ", text, re.MULTILINE)))
            return said("\n".join(f"{9 + n}. {self.task()}" if n else self.task() for n in range(3)))
        if text.startswith("Is the answer"):
            return said("Yes" if "Say whether" in text.rsplit("Task:", 1)[1] else "No")
        if text.startswith("The following task"):
            return said("Label: yes\nInput: It is so.\nLabel: no\nInput: It is not.")
        return said(f"Input: None\nOutput: Done, number {self.number}.")

    def task(self) -> str:
        self.number += 1
        n = self.number
        words = [THINGS[n % 12], THINGS[n // 12 % 12], THINGS[n // 144 % 12]]
        verb = VERBS[n % 10]
        if n % 7 == 0:
            return f"Say whether McDonald's {words[0]} number-{n} beats the {words[1]} of {words[2]}{n}"
        return f"{verb} Zürich's {words[0]}{n} beside {words[1]}{n} {words[2]}{n} calmly"


@pytest.fixture
def run_setup(tmp_path: Path) -> RunSetup:
    return RunSetup(tmp_path)


def test_tasks_become_examples_that_differ(run_setup: RunSetup) -> None:
    pupil = Pupil()
    result = run_setup.run(SayingEngine(pupil), "self_instruct", num_examples=60)
    rows = run_setup.rows()
    assert len(rows) == result["accepted"] == 60
    assert set(pupil.shown) == {8}
    instructions = [row["messages"][0]["content"].split("\n\n")[0] for row in rows]
    letters = [Fingerprint(instruction).letters for instruction in instructions]
    pairs = [(one, other) for place, one in enumerate(letters) for other in letters[:place]]
    assert max(rouge_l(one, other) for one, other in pairs) < 0.7
    assert any("Zürich's" in instruction for instruction in instructions), "names keep their capitals"
    labelled = [row for row in rows if row["metadata"]["tags"] == "classification"]
    assert labelled
    assert {row["messages"][1]["content"] for row in labelled} <= {"yes", "no"}


def test_tasks_that_were_made_are_shown_in_later_prompts(run_setup: RunSetup) -> None:
    engine = SayingEngine(Pupil())
    run_setup.run(engine, "self_instruct", num_examples=60)
    seeds = {" ".join(task_text(task).split())[:40] for task in shipped_seeds().tasks}
    prompts = [prompt_of(item) for item in engine.items if prompt_of(item).startswith("Come up with")]
    shown = [re.findall(r"^\d+\. (.*)$", prompt, re.MULTILINE) for prompt in prompts]
    made = [sum(line[:40] not in seeds for line in lines) for lines in shown]
    assert made[0] == 0
    assert made[-1] == 2


def test_the_same_again_is_no_new_task(run_setup: RunSetup) -> None:
    pupil = Pupil()
    pupil.task = lambda: "Describe the old harbour in five sentences"  # type: ignore[method-assign]
    result = run_setup.run(SayingEngine(pupil), "self_instruct", num_examples=10, max_attempts=12)
    assert (result["accepted"], result["partial"]) == (1, True)
    assert result["rejected"]["duplicate"] == 35


def test_math_makes_problems_that_were_checked(run_setup: RunSetup) -> None:
    count = 0

    def pupil(item: BatchItem) -> str:
        nonlocal count
        text = prompt_of(item)
        if text.startswith("Come up with"):
            count += 1
            return f"What is {count} + {count * 7}?\n10. The old {THINGS[count % 12]} {count} costs what?"
        if "What is" in text:
            a, b = re.findall(r"\d+", text)[-2:]
            return f"{a} + {b} = {int(a) + int(b)}\nThe answer is {int(a) + int(b)}"
        return f"The answer is {item.sampling.seed if item.sampling else 0}"

    result = run_setup.run(
        SayingEngine(pupil), "self_instruct", domain="math", num_examples=3, max_attempts=40, max_similarity=1.0
    )
    assert result["verified_by"] == {"executed": 3}
    for row in run_setup.rows():
        a, b = re.findall(r"\d+", row["messages"][0]["content"])
        assert row["metadata"]["answer"] == str(int(a) + int(b))


def test_a_small_context_gets_fewer_demonstrations(run_setup: RunSetup) -> None:
    pupil = Pupil()

    def answer(item: BatchItem) -> BatchOutput:
        if prompt_of(item).startswith("Come up with") and prompt_of(item).count("\n") > 5:
            return BatchOutput(error="This model's maximum context length is 512 tokens")
        return pupil(item)

    result = run_setup.run(SayingEngine(answer), "self_instruct", num_examples=10)
    assert result["accepted"] == 10
    assert 1 <= result["demonstrations"] < 4


def test_a_users_seeds_and_a_domain_steer_the_prompts(run_setup: RunSetup) -> None:
    seeds = [
        {"instruction": f"Weave basket {n}", "output": "Woven.", "domain": "baskets" if n < 6 else "other"}
        for n in range(12)
    ]
    (run_setup.layout.base / "mine.jsonl").write_text("\n".join(map(json.dumps, seeds)))
    engine = SayingEngine(Pupil())
    result = run_setup.run(engine, "self_instruct", seed_file="mine.jsonl", domain="baskets", num_examples=5)
    assert result["seed_tasks"] == 6
    first = prompt_of(engine.items[0])
    assert "in the field of baskets" in first
    assert set(re.findall(r"basket (\d+)", first)) == set("012345")


def test_the_shipped_seeds_are_good_for_their_purpose() -> None:
    tasks = shipped_seeds().tasks
    assert len(tasks) >= 60
    assert len({task.id for task in tasks}) == len({task.instruction + task.input for task in tasks}) == len(tasks)
    assert len(shipped_seeds().domains) >= 8
    assert sum(task.classification for task in tasks) >= 10
    letters = [Fingerprint(task.instruction).letters for task in tasks]
    pairs = [(one, other) for place, one in enumerate(letters) for other in letters[:place]]
    assert max(rouge_l(one, other) for one, other in pairs) < 0.7
    assert all(objection(task.instruction) is None for task in tasks if len(task.instruction.split()) > 3)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Name McKay's cat.\n10. Write a poem\n11) Sing", ["Name McKay's cat.", "Write a poem", "Sing"]),
        ("9. Tell a joke\n\nnonsense\n10. Ask again", ["Tell a joke", "Ask again"]),
        ("", []),
    ],
)
def test_lists_are_read(text: str, found: list[str]) -> None:
    assert parsed_instructions(text, 8, cut=False) == found


def test_a_list_that_was_cut_off_loses_its_last_line() -> None:
    assert parsed_instructions("Tell a joke\n10. Write a po", 8, cut=True) == ["Tell a joke"]


@pytest.mark.parametrize(
    ("instruction", "reason"),
    [
        ("Describe the harbour in winter", None),
        ("用五句话描述冬天的港口", None),
        ("¿Qué es un puerto?", None),
        ("Go now", "instruction_too_short"),
        ("word " * 151, "instruction_too_long"),
        ("Draw a picture of a cat", "instruction_not_for_text"),
        ("Write a program that sorts numbers", "instruction_write_a_program"),
        ("* do this and that", "instruction_begins_with_punctuation"),
    ],
)
def test_heuristics_on_instructions(instruction: str, reason: str | None) -> None:
    assert objection(instruction) == reason


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("Input: a cat\nOutput: an animal", [("a cat", "an animal")]),
        ("Input: None\nOutput: Two lines\nof it", [("", "Two lines\nof it")]),
        ("Input: a\nOutput: b\n\nInput: c\nOutput: d", [("a", "b")]),
        ("Output: only that", [("", "only that")]),
        ("just so", [("", "just so")]),
        ("", []),
    ],
)
def test_instances_are_read(text: str, pairs: list[tuple[str, str]]) -> None:
    assert instances(text) == pairs


def test_labels_and_contradictions() -> None:
    assert labelled_instances("Label: good\nInput: Nice!\n\nClass label: bad\nInput: Poor.\n") == [
        ("Nice!", "good"),
        ("Poor.", "bad"),
    ]
    kept: Any = sound([("a", "x"), ("a", "y"), ("b", "z"), ("b", "z"), ("c", "c")])
    assert kept == ([("b", "z")], "empty_instance")
    assert sound([("a", "x"), ("a", "y")]) == ([], "contradicting_instances")
