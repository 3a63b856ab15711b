import json
from typing import Any

import pytest

from evals.formats import BadFieldMap, check_field_map, parse_sample
from evals.sample import BrokenLine, Sample

USER, GPT = {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}


def _parse(fields: dict[str, Any], field_map: dict[str, str] | None = None) -> Sample:
    return parse_sample(json.dumps(fields).encode(), line=3, index=1, field_map=field_map)


@pytest.mark.parametrize(
    ("fields", "format_", "input_", "target"),
    [
        ({"question": "2+2?", "answer": "two and two\n#### 4"}, "gsm8k", "2+2?", "4"),
        ({"question": "2+2?", "answer": "4 # four"}, "question_answer", "2+2?", "4 # four"),
        ({"problem": "2+2?", "solution": "so $\\boxed{\\frac{8}{2}}$"}, "math", "2+2?", "\\frac{8}{2}"),
        ({"problem": "2+2?", "solution": "$\\boxed{4.0}$", "answer": "4", "level": 1}, "math", "2+2?", "4"),
        ({"question": "2+2?", "choices": ["3", "4"], "answer": 1}, "mmlu", "2+2?", "B"),
        ({"question": "2+2?", "choices": ["x", "y"], "answer": "b", "subject": "sums"}, "mmlu", "2+2?", "B"),
        ({"question": "2+2?", "choices": ["0", "1"], "answer": "1"}, "mmlu", "2+2?", "B"),
        ({"question": "2+2?", "choices": ["0", "4", "2", "6"], "answer": 1}, "mmlu", "2+2?", "B"),
        ({"question": "2+2?", "choices": ["0", "4", "2", "6"], "answer": "4"}, "mmlu", "2+2?", "B"),
        ({"question": "2+2?", "choices": [1, 4, 7], "answer": 4}, "mmlu", "2+2?", "B"),
        ({"question": "2+2?", "choices": ["A", "B", "C"], "answer": "b"}, "mmlu", "2+2?", "B"),
        ({"question": "2+2?", "choices": ["five", "Four"], "answer": "four"}, "mmlu", "2+2?", "B"),
        ({"question": "2+2?", "choices": ["5", "4", "5"], "answer": "B"}, "mmlu", "2+2?", "B"),
        ({"ctx": "2+2?", "endings": ["1", "4"], "label": "1"}, "hellaswag", "2+2?", "B"),
        (
            {"id": "q", "question": "2+2?", "choices": {"text": ["4", "5"], "label": ["1", "2"]}, "answerKey": "1"},
            "arc",
            "2+2?",
            "A",
        ),
        (
            {"ind": 4, "activity_label": "Sums", "ctx": "Two [x] and", "endings": ["one", "[sub] two"], "label": "1"},
            "hellaswag",
            "Sums: Two and",
            "B",
        ),
        ({"instruction": "Add.", "input": "2+2", "output": "4"}, "alpaca", "Add.\n\n2+2", "4"),
        ({"instruction": "Add 2+2.", "input": "", "output": "4"}, "alpaca", "Add 2+2.", "4"),
        ({"input": "2+2?", "ideal": ["4", "four"]}, "input_ideal", "2+2?", "4"),
        ({"input": [USER], "ideal": "4"}, "input_ideal", [USER], "4"),
        ({"input": "2+2?", "target": "4"}, "input_target", "2+2?", "4"),
        ({"input": "2+2?", "target": "B", "choices": ["3", "4"]}, "input_target", "2+2?", "B"),
        ({"prompt": "2+2=", "completion": "4"}, "prompt_completion", "2+2=", "4"),
        ({"prompt": [USER], "completion": [GPT]}, "prompt_completion", [USER], "4"),
        (
            {"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]},
            "sharegpt",
            [USER],
            "4",
        ),
    ],
)
def test_recognised_by_its_keys(fields: dict[str, Any], format_: str, input_: Any, target: str) -> None:
    sample = _parse(fields)
    assert (sample.format, sample.input, sample.target) == (format_, input_, target)


@pytest.mark.parametrize(
    ("choices", "answer", "answer_is", "target"),
    [
        (["0", "4", "2", "6"], "1", "index", "B"),
        (["1", "0"], "0", "index", "A"),
        (["1", "0"], "0", "text", "B"),
        (["1", "0"], 0, "text", "B"),
        (["B", "A"], "B", "letter", "B"),
        (["B", "A"], "B", "text", "A"),
        (["4", "5", "4"], 2, "index", "C"),
    ],
)
def test_what_names_the_right_choice_may_be_said(choices: list[str], answer: Any, answer_is: Any, target: str) -> None:
    for line in (
        {"question": "q", "choices": choices, "answer": answer},
        {"input": "q", "choices": choices, "target": answer},
        {"ctx": "q", "endings": choices, "label": answer},
    ):
        raw = json.dumps(line).encode()
        assert parse_sample(raw, line=1, index=0, answer_is=answer_is).target == target


@pytest.mark.parametrize(
    ("choices", "answer", "answer_is", "reason"),
    [
        (["0", "4", "2", "6"], "1", "text", "'answer' is '1': none of its choices, as answer_is says"),
        (["x", "y"], "B", "index", "'answer' is 'B': no index from 0 to 1, as answer_is says"),
        (["x", "y"], "1", "letter", "'answer' is '1': none of the letters AB, as answer_is says"),
        (["x", "x"], "x", "text", "ambiguous: the choices A and B are both 'x'"),
    ],
)
def test_what_is_said_to_name_it_must(choices: list[str], answer: Any, answer_is: Any, reason: str) -> None:
    raw = json.dumps({"question": "q", "choices": choices, "answer": answer}).encode()
    with pytest.raises(BrokenLine) as raised:
        parse_sample(raw, line=1, index=0, answer_is=answer_is)
    assert str(raised.value) == reason


def test_worked_answers_are_the_reference() -> None:
    gsm8k = _parse({"question": "2+2?", "answer": "two and two\n#### 4"})
    assert (gsm8k.form, gsm8k.reference_text) == ("hashes", "two and two\n#### 4")
    math = _parse({"problem": "2+2?", "solution": "so $\\boxed{4}$"})
    assert (math.form, math.reference_text) == ("boxed", "so $\\boxed{4}$")


def test_several_targets() -> None:
    assert _parse({"input": "2+2?", "ideal": ["4", "four"]}).accepted == ("4", "four")
    assert _parse({"input": "2+2?", "target": "4"}).accepted == ("4",)


def test_humaneval_and_mbpp_bring_their_tests() -> None:
    humaneval = _parse(
        {
            "task_id": "HumanEval/0",
            "prompt": "def add(a, b):\n",
            "canonical_solution": "    return a + b\n",
            "test": "def check(candidate):\n    assert candidate(2, 2) == 4",
            "entry_point": "add",
        }
    )
    assert (humaneval.id, humaneval.is_prompt) == ("HumanEval/0", True)
    assert humaneval.code is not None
    assert humaneval.code.after.endswith("check(add)\n")
    mbpp = _parse({"task_id": 2, "text": "Add.", "code": "def add(a, b): …", "test_list": ["assert add(2, 2) == 4"]})
    assert (mbpp.id, mbpp.is_prompt) == ("2", False)
    assert "assert add(2, 2) == 4" in str(mbpp.input)
    assert mbpp.code is not None
    assert mbpp.code.after == "assert add(2, 2) == 4\n"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"question": "q", "answer": "#### "}, "'answer' has nothing after its ####"),
        ({"problem": "q", "solution": "four"}, "'solution' has no \\boxed{}"),
        ({"problem": "q", "solution": "\\boxed{4"}, "'solution' has no \\boxed{}"),
        ({"question": "q", "choices": ["a", "b"], "answer": 2}, "'answer' is 2: neither an index from 0 to 1"),
        ({"question": "q", "choices": ["x", "y"], "answer": "C"}, "'answer' is 'C': neither an index"),
        ({"question": "q", "choices": ["x"], "answer": 0}, "it has 1 choices"),
        (
            {"question": "q", "choices": ["0", "4", "2", "6"], "answer": "1"},
            "'answer' is '1', which is not a choice's text, and may be its index; answer_is (index, letter or text)",
        ),
        (
            {"question": "q", "choices": ["1", "0"], "answer": "0"},
            "'answer' is '0', which is the index of '1' and text of '0'; answer_is",
        ),
        ({"question": "q", "choices": [1, 2, 3], "answer": 1}, "which is the index of '2' and text of '1'"),
        ({"question": "q", "choices": ["B", "A"], "answer": "B"}, "which is the letter of 'A' and text of 'B'"),
        ({"question": "q", "choices": ["B", "A"], "answer": "b"}, "which is the letter of 'A' and text of 'B'"),
        ({"question": "q", "choices": ["A", "B", "D"], "answer": "C"}, "and may be its letter; answer_is"),
        ({"input": "q", "choices": ["B", "A"], "target": "B"}, "'target' is 'B', which is the letter"),
        (
            {"question": "q", "choices": ["4", "5", "4"], "answer": 0},
            "the choices A and C are both '4'; answer_is (index or",
        ),
        ({"ctx": "c", "endings": ["x", "x [y]"], "label": 0}, "the choices A and B are both 'x'"),
        (
            {"question": "q", "choices": {"text": ["x", "y"], "label": ["A", "A"]}, "answerKey": "A"},
            "the label 'A' is there twice",
        ),
        ({"question": "q", "choices": [], "answer": 0}, "'choices' must be a list of texts, not empty"),
        (
            {"question": "q", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": "E"},
            "'answerKey' is 'E', the labels are A, B",
        ),
        ({"question": "q", "choices": {"text": ["x"]}, "answerKey": "A"}, "must be an object with 'text' and 'label'"),
        (
            {"question": "q", "choices": {"text": ["x"], "label": ["A", "B"]}, "answerKey": "A"},
            "'choices' has 1 texts and 2 labels",
        ),
        ({"ctx": "c", "endings": ["x", "y"], "label": ""}, "'label' is '': neither an index"),
        ({"ctx": "c", "endings": ["x", "y"], "label": "²"}, "'label' is '²': neither an index"),
        ({"ctx": "c", "endings": ["x", "y"], "label": "1" * 5000}, "neither an index"),
        ({"conversations": []}, "must be a list with at least one turn"),
        ({"conversations": [{"from": "human", "value": 1}]}, "turn 1 must be an object with 'from' and a text"),
        ({"conversations": [{"from": "martian", "value": "q"}]}, "turn 1 is from 'martian'"),
        ({"conversations": [{"from": "human", "value": "q"}]}, "does not end with a turn of gpt"),
        ({"prompt": "p", "completion": "c", "answer": "a"}, "ambiguous: its keys are those of"),
        ({"prompt": "p", "test": "t", "entry_point": "a b"}, "'entry_point' is 'a b', which is not the name"),
        ({"code": "c", "test_list": ["assert f()"]}, "neither 'text' nor 'prompt' is there"),
        ({"input": "q", "ideal": [1, None]}, "'ideal'[1] must be text, not null"),
    ],
)
def test_refused(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(BrokenLine) as caught:
        _parse(fields)
    assert reason in str(caught.value)


def test_a_field_map_renames_and_decides() -> None:
    line = {"prompt": "p", "completion": "c", "answer": "a"}
    assert _parse(line, {"prompt": "prompt", "answer": "answer"}).format == "prompt_answer"
    nested = {"uid": 7, "q": "2+2?", "reward": {"truth": 4}}
    sample = _parse(nested, {"id": "uid", "question": "q", "answer": "reward.truth"})
    assert (sample.id, sample.input, sample.target) == ("7", "2+2?", "4")
    assert sample.metadata == {"reward": {"truth": 4}}


def test_a_mapped_key_that_is_missing_is_named() -> None:
    with pytest.raises(BrokenLine, match=r"'a\.b', which field_map takes as 'answer', is missing"):
        _parse({"q": "2+2?", "a": {"c": 4}}, {"question": "q", "answer": "a.b"})


@pytest.mark.parametrize(
    ("field_map", "reason"),
    [({"query": "q"}, "no format has a field 'query'; known are"), ({"question": "q"}, "'answer' is missing to be")],
)
def test_a_field_map_of_no_format(field_map: dict[str, str], reason: str) -> None:
    with pytest.raises(BadFieldMap, match=reason):
        check_field_map(field_map)
