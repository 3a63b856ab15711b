"""inspect-ai's log (version 2, JSON), which `inspect view` and `inspect_ai.log.read_eval_log` read. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from evals.interchange.answers import ForeignAnswer, ForeignRun, Unreadable, as_text
from evals.record import SampleRecord
from stepserve.jobs.eval_ports import DoneEval

VERSION = 2
_RIGHT, _WRONG, _PARTLY, _NONE = "C", "I", "P", "N"
_VALUES = {_RIGHT: 1.0, _WRONG: 0.0, _PARTLY: 0.5, _NONE: 0.0}
_STOPS = frozenset({"stop", "max_tokens", "model_length", "tool_calls", "content_filter", "unknown"})


def written(done: DoneEval, records: Sequence[SampleRecord], created_at: str) -> dict[str, Any]:
    """The log of a run that is done; `created_at` is ISO 8601."""
    result, config = done.result, done.config
    dataset = config.get("dataset") or {}
    metrics: Mapping[str, Mapping[str, Any]] = result.get("metrics") or {}
    scorers = [
        {"name": name, "scorer": name, "params": {}, "metrics": _metrics(metric)}
        for name, metric in metrics.items()
        if metric.get("mean") is not None
    ]
    names = {name for record in records for name in record.scores}
    epochs = int(result.get("answers_per_sample") or 1)
    return {
        "version": VERSION,
        "status": "success",
        "eval": {
            "eval_id": done.job_id,
            "run_id": done.job_id,
            "created": created_at,
            "task": str(config.get("name") or dataset.get("name") or done.job_id),
            "task_id": done.job_id,
            "dataset": {"name": dataset.get("name"), "samples": len(records), "shuffled": False},
            "model": f"stepserve/{done.model_id}",
            "config": {"epochs": epochs},
            "metadata": {"model_digest": done.model_digest, "dataset_digest": dataset.get("digest")},
        },
        "plan": {"name": "plan", "steps": [{"solver": "generate", "params": {}}], "config": _sampling(config)},
        "results": {"total_samples": len(records), "completed_samples": len(records), "scores": scorers},
        "stats": {
            "started_at": created_at,
            "completed_at": created_at,
            "model_usage": {f"stepserve/{done.model_id}": _usage(result)},
        },
        "samples": [
            _sample(record, number, names, done.model_id) for record in records for number in range(_answers(record))
        ],
    }


def read(log: Any, metric: str | None) -> ForeignRun:
    """Of a log in JSON. `metric`: a scorer's name; None: the first one's. Raises Unreadable."""
    if not isinstance(log, dict) or not isinstance(log.get("samples"), list) or not isinstance(log.get("eval"), dict):
        raise Unreadable("it is not an inspect-ai log in JSON with samples (`inspect log convert --to json`)")
    if log.get("status") != "success":
        raise Unreadable(f"the run is {log.get('status')!r}, not a success")
    samples = [sample for sample in log["samples"] if isinstance(sample, dict)]
    names = list(dict.fromkeys(name for sample in samples for name in sample.get("scores") or {}))
    if not names:
        raise Unreadable("none of its samples has a score")
    if metric is not None and metric not in names:
        raise Unreadable(f"metric: no score is called {metric!r}; there are {', '.join(names)}")
    name = metric or names[0]
    return ForeignRun("inspect", str(log["eval"].get("task")), name, list(_answers_in(samples, name)))


def _answers_in(samples: Iterable[dict[str, Any]], name: str) -> Iterable[ForeignAnswer]:
    for place, sample in enumerate(samples):
        if sample.get("epoch", 1) != 1:
            continue
        score = (sample.get("scores") or {}).get(name)
        value = None if score is None else _value(score.get("value"))
        error = sample.get("error")
        yield ForeignAnswer(
            id=str(sample.get("id", place)),
            input=_input(sample.get("input")),
            target=as_text(sample.get("target")),
            prediction=str((sample.get("output") or {}).get("completion") or ""),
            value=value,
            error=None if value is not None else str((error or {}).get("message", "it has no score")),
        )


def _value(value: Any) -> float | None:
    if isinstance(value, bool | int | float):
        return float(value)
    return _VALUES.get(value) if isinstance(value, str) else None


def _input(value: Any) -> str | list[dict[str, Any]]:
    if not isinstance(value, list):
        return as_text(value)
    return [{"role": str(turn.get("role")), "content": as_text(turn.get("content"))} for turn in value]


def _answers(record: SampleRecord) -> int:
    return max(1, len(record.answers))


def _sample(record: SampleRecord, number: int, names: Iterable[str], model_id: str) -> dict[str, Any]:
    text = record.answers[number] if number < len(record.answers) else record.prediction
    turns = [{"role": "user", "content": record.input}] if isinstance(record.input, str) else record.input
    reason = {"length": "max_tokens"}.get(record.finish_reason or "", record.finish_reason)
    stop = reason if reason in _STOPS else "unknown"
    sample: dict[str, Any] = {
        "id": record.id,
        "epoch": number + 1,
        "input": record.input,
        "target": record.accepted if len(record.accepted) > 1 else record.target,
        "messages": [*turns, {"role": "assistant", "content": text}],
        "output": {
            "model": f"stepserve/{model_id}",
            "choices": [{"message": {"role": "assistant", "content": text, "source": "generate"}, "stop_reason": stop}],
            "completion": text,
            "time": record.latency_s,
        },
        "scores": {name: _score(record, name, number) for name in names if name in record.scores},
        "metadata": {"index": record.index, "loss": record.loss},
    }
    if record.choices:
        sample["choices"] = record.choices
    if record.error is not None:
        sample["error"] = {"message": record.error, "traceback": "", "traceback_ansi": ""}
    return sample


def _score(record: SampleRecord, name: str, number: int) -> dict[str, Any]:
    score = record.scores[name]
    value = score.values[number] if score.values else score.value
    decides = score.correct is not None and value in {0.0, 1.0}
    return {
        "value": (_RIGHT if value else _WRONG) if decides else value,
        "answer": score.extracted if number == 0 else None,
        "explanation": score.error or score.detail,
    }


def _metrics(metric: Mapping[str, Any]) -> dict[str, Any]:
    names = {"mean": "mean", "stderr": "stderr"}
    return {
        theirs: {"name": theirs, "value": metric[ours], "params": {}}
        for ours, theirs in names.items()
        if metric.get(ours) is not None
    }


def _sampling(config: Mapping[str, Any]) -> dict[str, Any]:
    named = {"max_tokens": "max_tokens", "temperature": "temperature", "top_p": "top_p", "seed": "seed"}
    return {theirs: config[ours] for ours, theirs in named.items() if config.get(ours) is not None}


def _usage(result: Mapping[str, Any]) -> dict[str, int]:
    asked, answered = int(result.get("prompt_tokens") or 0), int(result.get("completion_tokens") or 0)
    return {"input_tokens": asked, "output_tokens": answered, "total_tokens": asked + answered}
