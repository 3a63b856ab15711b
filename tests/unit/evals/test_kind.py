import json
from pathlib import Path
from typing import Any

import pytest

from evals.kind import EvalKind
from evals.request import EvalJobRequest
from stepserve.jobs.errors import Invalid, NotFound
from stepserve.jobs.ports import JobKind

LINE = '{"question": "1+1", "answer": 2}\n'
KIND: JobKind = EvalKind()


def _check(datasets_dir: Path, **fields: Any) -> dict[str, Any]:
    request = EvalJobRequest(**{"model_id": "m", "name": "n", "dataset_ref": "set.jsonl", **fields})
    return KIND.check(request, datasets_dir)


def test_the_kind_has_its_place() -> None:
    assert (KIND.type, KIND.route, KIND.request_model) == ("eval", "/eval", EvalJobRequest)


def test_check_gives_the_request_and_the_dataset(tmp_path: Path) -> None:
    (tmp_path / "set.jsonl").write_text(LINE * 5)
    config = _check(tmp_path, max_samples=3, stop=["\n"])
    assert json.loads(json.dumps(config)) == config
    assert (config["model_id"], config["max_samples"], config["stop"]) == ("m", 3, ["\n"])
    assert config["dataset"]["format"] == "question_answer"
    assert (config["dataset"]["name"], config["dataset"]["samples"]) == ("set.jsonl", 3)


def test_a_path_is_the_same_as_its_name(tmp_path: Path) -> None:
    (tmp_path / "set.jsonl").write_text(LINE)
    by_path = _check(tmp_path, dataset_ref=str(tmp_path / "set.jsonl"))
    assert by_path["dataset"] == _check(tmp_path)["dataset"]


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        (
            {"dataset_ref": "nope"},
            NotFound,
            "dataset_ref: there is no file 'nope'.*there are: bad.jsonl, choices.jsonl, set.jsonl",
        ),
        ({"dataset_ref": "../set.jsonl"}, Invalid, "dataset_ref: '../set.jsonl' is not inside the datasets folder"),
        ({"dataset_ref": "bad"}, Invalid, "dataset_ref: bad.jsonl, line 2: broken JSON"),
        ({"metrics": ["bleurt"]}, Invalid, "metrics: unknown metric 'bleurt'"),
        (
            {"dataset_ref": "plain.txt", "system_prompt": "Be short."},
            Invalid,
            "system_prompt: plain.txt, line 1: goes with questions",
        ),
        ({"dataset_ref": "choices"}, Invalid, "dataset_ref: choices.jsonl, line 2: ambiguous.*answer_is"),
        ({"answer_is": "index"}, Invalid, "answer_is: set.jsonl, line 1: .* has none"),
        ({"cluster_by": "document"}, Invalid, "cluster_by: set.jsonl, line 1: .*'document'"),
    ],
)
def test_check_refuses_naming_the_field(
    tmp_path: Path, fields: dict[str, Any], error: type[Exception], message: str
) -> None:
    (tmp_path / "set.jsonl").write_text(LINE)
    (tmp_path / "bad.jsonl").write_text(LINE + "{\n")
    lines = ({"question": "q", "choices": ["0", "4", "2"], "answer": answer} for answer in (1, "1"))
    (tmp_path / "choices.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "plain.txt").write_text('{"prompt": "1+1=", "answer": 2}\n')
    with pytest.raises(error, match=message):
        _check(tmp_path, **fields)


def test_no_more_answers_a_question_than_an_engine_works_on(tmp_path: Path) -> None:
    (tmp_path / "set.jsonl").write_text(LINE)
    asked: dict[str, Any] = {"model_id": "m", "name": "n", "dataset_ref": "set.jsonl", "temperature": 1.0}
    kind = EvalKind(max_answers=64)
    kind.check(EvalJobRequest(**asked, n=64), tmp_path)
    with pytest.raises(Invalid, match="n: 65 answers a question; at most 64"):
        kind.check(EvalJobRequest(**asked, n=65), tmp_path)


def test_what_an_answer_is_decides_and_is_part_of_the_prompts(tmp_path: Path) -> None:
    (tmp_path / "set.jsonl").write_text('{"question": "q", "choices": ["1", "0"], "answer": "0"}\n')
    digests = {_check(tmp_path, answer_is=answer_is)["asked"]["template_digest"] for answer_is in ("index", "text")}
    assert len(digests) == 2
