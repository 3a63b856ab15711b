"""What an eval run says about a model: which questions are gaps in its knowledge, and which were passed."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from datagen.errors import Refused
from datagen.tokens import words
from evals.datasets import open_dataset, read_samples, resolve_dataset
from evals.errors import EvalError

FIELD = "source_eval_run_id"
Half = Literal["dev", "test"]

_DEV_SPLITS = frozenset({"dev", "validation", "valid", "val", "train"})
_EVERY_SAMPLE = 2**62


@dataclass(frozen=True, slots=True)
class Source:
    """A question of the eval run, usable to make others from."""

    id: str
    question: str
    target: str


@dataclass(slots=True)
class EvalRun:
    """`triage` counts the failures of the usable half by what was behind them; `split` says how the halves were made;
    `questions` are those of both halves, as their words; `model_id` and `model_digest` are the model's that was asked.
    """

    failed: list[Source] = field(default_factory=list)
    passed: list[Source] = field(default_factory=list)
    triage: Counter[str] = field(default_factory=Counter)
    split: dict[str, Any] = field(default_factory=dict)
    questions: set[str] = field(default_factory=set)
    digest: str = ""
    model_id: str | None = None
    model_digest: str | None = None


def read_eval_run(run_id: str, runs_dir: Path, datasets_dir: Path) -> EvalRun:
    """Blocks; raises Refused naming what is missing or cannot be used."""
    folder = _folder(run_id, runs_dir)
    if not (folder / "metrics.json").is_file():
        raise Refused(FIELD, f"{run_id} is not over: wait until it is done")
    samples = folder / "samples.jsonl"
    if not samples.is_file():
        raise Refused(FIELD, f"{run_id} kept no samples: run it with per_example_logging")
    config = _config_of(folder)
    split_of = _splits(config, datasets_dir)
    run = EvalRun(digest=_digest(samples))
    asked = config.get("model")
    if isinstance(asked, dict):
        run.model_id, run.model_digest = str(asked.get("id")), str(asked.get("digest"))
    halves: Counter[str] = Counter()
    for record in _records(samples):
        question = _question(record)
        run.questions.add(" ".join(words(question)))
        half = split_of.get(str(record["id"])) if split_of else half_of(question)
        halves[half or "test"] += 1
        if half != "dev":
            continue
        source = Source(str(record["id"]), question, str(record.get("target", "")))
        cause = cause_of(record)
        if cause == "passed":
            run.passed.append(source)
        else:
            run.triage[cause] += 1
            if cause == "knowledge":
                run.failed.append(source)
    run.split = {
        "dataset": str(config["dataset"]["name"]) if config else "",
        "by": "the dataset's own dev split" if split_of else "sha256 of the question",
        "used": "dev",
        "dev_questions": halves["dev"],
        "test_questions": halves["test"],
    }
    return run


def half_of(question: str) -> Half:
    """The same for the same words, whatever the file or the order: the parity of their SHA-256's first byte."""
    return "dev" if hashlib.sha256(" ".join(words(question)).encode()).digest()[0] % 2 == 0 else "test"


def cause_of(record: Mapping[str, Any]) -> str:
    """passed; engine_error, truncated, unparsed: not gaps in knowledge; knowledge."""
    if record.get("error") is not None:
        return "engine_error"
    if record.get("correct"):
        return "passed"
    if record.get("finish_reason") == "length":
        return "truncated"
    scores = [score for score in (record.get("scores") or {}).values() if isinstance(score, Mapping)]
    if not str(record.get("prediction", "")).strip() or (
        scores and not any(score.get("parsed", True) for score in scores)
    ):
        return "unparsed"
    return "knowledge"


def _folder(run_id: str, runs_dir: Path) -> Path:
    if not run_id.replace("_", "").replace("-", "").isalnum():
        raise Refused(FIELD, f"{run_id!r} is not the id of an eval job")
    folder = runs_dir / "eval" / run_id
    if not folder.is_dir():
        raise Refused(FIELD, f"there is no eval run {run_id!r}")
    return folder


def _config_of(folder: Path) -> dict[str, Any]:
    """Empty where it cannot be read, or names no dataset."""
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_bytes())
        return config if config["dataset"]["name"] else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _splits(config: Mapping[str, Any], datasets_dir: Path) -> dict[str, Half]:
    """By sample id, where the dataset says so itself (`"split": "dev"`); empty otherwise."""
    found: dict[str, Half] = {}
    if not config:
        return {}
    name, field_map, answer_is = str(config["dataset"]["name"]), config.get("field_map"), config.get("answer_is")
    try:
        with open_dataset(resolve_dataset(name, datasets_dir)) as stream:
            for sample in read_samples(stream, name, _EVERY_SAMPLE, field_map, answer_is=answer_is):
                split = sample.metadata.get("split")
                if isinstance(split, str):
                    found[sample.id] = "dev" if split.casefold() in _DEV_SPLITS else "test"
    except EvalError:
        return {}
    return found if "dev" in found.values() else {}


def _question(record: Mapping[str, Any]) -> str:
    asked = record.get("input", "")
    if isinstance(asked, str):
        return asked
    return "\n".join(str(turn.get("content", "")) for turn in asked if turn.get("role") != "system")


def _records(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for line, raw in enumerate(file, start=1):
            try:
                record = json.loads(raw)
            except ValueError as error:
                raise Refused(FIELD, f"{path.name}, line {line}: no JSON: {error}") from error
            if not isinstance(record, dict) or "id" not in record:
                raise Refused(FIELD, f"{path.name}, line {line}: not a record of an eval")
            yield record


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
