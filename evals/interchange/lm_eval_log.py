"""lm-eval's files: results.json with the task's numbers, and samples.jsonl with a line for each question. Pure."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from evals.interchange.answers import ForeignAnswer, ForeignRun, Unreadable, as_text
from evals.record import SampleRecord
from stepserve.jobs.eval_ports import DoneEval

FILTER = "none"


def task_of(done: DoneEval) -> str:
    name = str((done.config.get("dataset") or {}).get("name") or done.job_id)
    return name.removesuffix(".gz").removesuffix(".jsonl")


def results(done: DoneEval, count: int, finished_at_s: float) -> dict[str, Any]:
    """What lm-eval writes to results_<time>.json. `count`: of the samples."""
    task, config = task_of(done), done.config
    numbers: dict[str, Any] = {"alias": task}
    for name, metric in (done.result.get("metrics") or {}).items():
        if metric.get("mean") is not None:
            numbers[f"{name},{FILTER}"] = metric["mean"]
            numbers[f"{name}_stderr,{FILTER}"] = "N/A" if metric.get("stderr") is None else metric["stderr"]
    shots = int(config.get("num_fewshot") or 0)
    return {
        "results": {task: numbers},
        "group_subtasks": {task: []},
        "configs": {
            task: {
                "task": task,
                "dataset_path": "json",
                "output_type": "generate_until",
                "num_fewshot": shots,
                "repeats": int(config.get("n") or 1),
                "metric_list": [{"metric": name} for name in done.result.get("metrics") or {}],
                "generation_kwargs": {
                    "max_gen_toks": config.get("max_tokens"),
                    "temperature": config.get("temperature"),
                },
                "metadata": {"version": 0, "dataset_digest": done.result.get("dataset_digest")},
            }
        },
        "versions": {task: 0},
        "n-shot": {task: shots},
        "higher_is_better": {task: dict.fromkeys(done.result.get("metrics") or {}, True)},
        "n-samples": {task: {"original": count, "effective": count}},
        "config": {"model": "stepserve", "model_args": f"model={done.model_id}", "model_digest": done.model_digest},
        "date": finished_at_s,
        "model_source": "stepserve",
        "model_name": done.model_id,
    }


def samples(records: Sequence[SampleRecord]) -> Iterator[dict[str, Any]]:
    """The lines of samples_<task>_<time>.jsonl."""
    for record in records:
        prompt = record.input if isinstance(record.input, str) else json.dumps(record.input)
        answers = list(record.answers) or [record.prediction]
        line = {
            "doc_id": record.index,
            "doc": {"id": record.id, "question": record.input, "answer": record.target},
            "target": record.target,
            "arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": {}}},
            "resps": [answers],
            "filtered_resps": answers[:1],
            "filter": FILTER,
            "metrics": list(record.scores),
            "doc_hash": _hash(record.id),
            "prompt_hash": _hash(prompt),
            "target_hash": _hash(record.target),
        }
        yield line | {name: score.value for name, score in record.scores.items()}


def read(lines: Iterable[Any], metric: str | None) -> ForeignRun:
    """Of the lines of a samples file. `metric` None: the first one that each line has. Raises Unreadable.

    A task with several filters of an answer has a line for each. `metric,filter`, as lm-eval's results name it, chooses
    one; else it is the first line's.
    """
    answers: list[ForeignAnswer] = []
    name, _, wanted = (metric or "").partition(",")
    for number, line in enumerate(lines, start=1):
        if not isinstance(line, dict) or "doc_id" not in line or not isinstance(line.get("doc"), dict):
            raise Unreadable(f"line {number} is not of lm-eval's samples file (`--log_samples`): it has no doc")
        wanted = wanted or str(line.get("filter", FILTER))
        if str(line.get("filter", FILTER)) != wanted:
            continue
        if not name:
            named = line.get("metrics") or []
            name = next((str(one) for one in named if isinstance(line.get(one), int | float)), "")
            if not name:
                raise Unreadable(f"line {number} has no metric with a number")
        value = line.get(name)
        if not isinstance(value, int | float):
            raise Unreadable(f"metric: line {number} has no number {name!r}")
        doc = line["doc"]
        answers.append(
            ForeignAnswer(
                id=_id(line["doc_id"], doc),
                input=_input(line, doc),
                target=as_text(line.get("target")),
                prediction=_response(line),
                value=float(value),
            )
        )
    if not answers:
        raise Unreadable(f"metric: it has no line of the filter {wanted!r}" if wanted else "it has no samples")
    return ForeignRun("lm_eval", "", name, answers)


def _id(number: Any, doc: Mapping[str, Any]) -> str:
    """The document's own; else that which a line without one has with us, which are counted from 1."""
    if "id" in doc:
        return str(doc["id"])
    return str(number + 1) if isinstance(number, int) else str(number)


def _input(line: Mapping[str, Any], doc: Mapping[str, Any]) -> str | list[dict[str, Any]]:
    """Ours, where we wrote it; else the prompt that was sent."""
    question = doc.get("question")
    if isinstance(question, list) and all(isinstance(turn, dict) and "content" in turn for turn in question):
        return question
    arguments = line.get("arguments")
    first = next(iter(arguments.values()), None) if isinstance(arguments, dict) else None
    return str(first.get("arg_0", "")) if isinstance(first, dict) else as_text(question)


def _response(line: Mapping[str, Any]) -> str:
    value: Any = line.get("filtered_resps") or line.get("resps")
    while isinstance(value, list) and value:
        value = value[0]
    return "" if value is None or isinstance(value, list) else str(value)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
