"""What is refused at the door, and in which words."""

import json
from pathlib import Path
from typing import Any

import pytest

from stepserve.jobs.errors import BadJob
from tests.unit.datagen.run_setup import RunSetup, SayingEngine

PLAIN: dict[str, Any] = {"template": "Say {{word}}", "rows": [{"word": "yes"}]}


@pytest.fixture
def run_setup(tmp_path: Path) -> RunSetup:
    return RunSetup(tmp_path)


def test_an_unknown_strategy_names_the_known_ones(run_setup: RunSetup) -> None:
    assert run_setup.refusal("evolve") == (
        "strategy: there is no 'evolve'; known are self_instruct, fix_eval_failures, custom, best_of_n, pipeline"
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"colour": 1}, "config.colour: unknown field"),
        ({"num_examples": 0}, "config.num_examples: Input should be greater than or equal to 1"),
        ({"num_examples": 5, "num_samples": 5}, "num_examples and num_samples are the same: give one"),
        ({"output_dir": "/tmp/out"}, "config.output_dir: must be relative to the base directory"),
        ({"output_dir": "~/out"}, "config.output_dir: must be relative to the base directory"),
        ({"output_dir": "a/../../b"}, "config.output_dir: must not contain '..'"),
        ({"output_dir": "models/x"}, "config.output_dir: models/ belongs to the server"),
        ({"output_dir": "Models"}, "config.output_dir: Models/ belongs to the server"),
        ({"output_dir": "keys.json"}, "config.output_dir: 'keys.json' is a file's name"),
        ({"output_dir": "db.sqlite/x"}, "config.output_dir: 'db.sqlite' is a file's name"),
        ({"output_dir": "db.sqlite-wal"}, "config.output_dir: 'db.sqlite-wal' is a file's name"),
        ({"output_dir": "stepserve.lock"}, "config.output_dir: 'stepserve.lock' is a file's name"),
        ({"output_dir": ".hidden"}, "config.output_dir: '.hidden' is not a valid folder name"),
        ({"output_dir": "."}, "config.output_dir: must name a folder below the base directory"),
        ({"output_dir": "a\x00b"}, "config.output_dir: 'a\\x00b' is not a valid folder name"),
        ({"format": "csv"}, "config.format: Input should be 'messages', 'alpaca', 'sharegpt', 'dpo', 'kto' or "),
        ({"filters": ["lenght"]}, "config.filters: there is no filter 'lenght'; known are"),
        ({"template": "{{ word"}, "config.template: line 1: unexpected end of template"),
        ({"template": "{{ word.__class__ }}"}, "config.template: line 1: '__class__' must not be read"),
        ({"template": "{{ wrod }}"}, "config.template: fails on the first row: 'wrod' is undefined"),
        ({"json_schema": {"type": "nonsense"}}, "config.json_schema: type: 'nonsense' is not valid"),
        ({"json_schema": {"$ref": "http://example.com/x"}}, "config.json_schema: may refer to its own parts alone"),
        ({"dataset_ref": "x.jsonl"}, "rows come from one of rows, dataset_ref and input"),
        ({"rows": None, "dataset_ref": "../../x"}, "config.dataset_ref: '../../x' is not inside the datasets folder"),
        ({"rows": None, "input": "nothing.jsonl"}, "config.input: there is no file 'nothing.jsonl'"),
        ({"rows": None, "input": "../x.jsonl"}, "config.input: '../x.jsonl' is not inside the base directory"),
        ({"rows": None, "input": "keys.json"}, "config.input: 'keys.json' is not a .jsonl file"),
        (
            {"rows": None, "input": "runs/eval/eval_1/samples.jsonl"},
            "config.input: 'runs/eval/eval_1/samples.jsonl' belongs",
        ),
        ({"rows": None, "input": "logs/x.jsonl"}, "config.input: 'logs/x.jsonl' belongs to the server"),
        ({"verify": "executed", "user": "x"}, "verify goes with neither json_schema nor user and assistant"),
        ({"only_unsolved": True}, "only_unsolved needs a known answer"),
        ({"min_answer_chars": 9, "max_answer_chars": 8}, "min_answer_chars is larger than max_answer_chars"),
        ({"judge": {"min_score": 9}}, "config.judge.min_score: Input should be less than or equal to 5"),
        ({"decontaminate_except": ["nothing"]}, "config.decontaminate_except: there is no file 'nothing'"),
    ],
)
def test_bad_configs_are_refused_naming_the_field(run_setup: RunSetup, config: dict[str, Any], message: str) -> None:
    given = {key: value for key, value in {**PLAIN, **config}.items() if value is not None}
    assert message in run_setup.refusal("custom", **given)


def test_synonyms_of_the_scripts_are_taken(run_setup: RunSetup) -> None:
    stored = run_setup.check("self_instruct", target_domain="math", num_samples=7, output_dir="train_shards_out")
    assert (stored["config"]["domain"], stored["config"]["num_examples"]) == ("math", 7)
    assert stored["config"]["seed"] == run_setup.check("self_instruct", seed=stored["config"]["seed"])["config"]["seed"]


def test_rows_and_seeds_are_read_at_the_door(run_setup: RunSetup) -> None:
    (run_setup.layout.base / "rows.jsonl").write_text('{"word": "yes"}\n\n[1]\n')
    assert "config.input: rows.jsonl, line 3: not a JSON object" in run_setup.refusal(
        "custom", template="{{word}}", input="rows.jsonl"
    )
    (run_setup.layout.base / "seeds.jsonl").write_text(json.dumps({"instruction": "Do it."}) + "\n")
    assert "config.seed_file: seeds.jsonl, line 1: 'output' is missing" in run_setup.refusal(
        "self_instruct", seed_file="seeds.jsonl"
    )


def test_an_output_folder_that_leads_elsewhere_is_refused(
    run_setup: RunSetup, tmp_path_factory: pytest.TempPathFactory
) -> None:
    base = run_setup.layout.base
    outside = tmp_path_factory.mktemp("outside")
    (base / "out").symlink_to(outside)
    run_setup.layout.models.mkdir(exist_ok=True)
    (base / "in").symlink_to(run_setup.layout.models)
    (base / "all").symlink_to(base)
    (base / "round").symlink_to(base / "round")
    (base / "notes").write_text("mine")
    for folder, message in (
        ("out/x", "leads out of the base directory"),
        ("in", "leads to a folder of the server"),
        ("all", "leads to a folder of the server"),
        ("all/config", "leads to a folder of the server"),
        ("round", "cannot be looked at"),
        ("notes/x", "notes is a file"),
    ):
        assert message in run_setup.refusal("custom", **PLAIN, output_dir=folder)


def test_an_output_folder_that_leads_out_by_now_is_never_written_to(
    run_setup: RunSetup, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    context = run_setup.context(
        run_setup.check("custom", **PLAIN, num_examples=1, output_dir="out/x"), SayingEngine(lambda _: "Fine.")
    )
    (run_setup.layout.base / "out").symlink_to(outside)
    with pytest.raises(BadJob, match="leads out of the base directory"):
        run_setup.go(context)
    assert list(outside.iterdir()) == []
