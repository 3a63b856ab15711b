"""An eval as a report for people who were not there: its numbers, how sure they are, and answers to look at."""

from typing import Any

from evals.errors import EvalError
from evals.metrics import decided_by
from evals.record import SampleRecord
from evals.rescore import records_of
from evals.sample_page import verdict_of
from evals.saturation import saturation_of
from stepserve.jobs.errors import Conflict
from stepserve.jobs.eval_ports import DoneEval
from stepserve.report.blocks import (
    Bars,
    Block,
    Document,
    Heading,
    Interval,
    Intervals,
    Paragraph,
    Table,
    between,
    number,
)

_SHOWN_ANSWERS = 20
_LONGEST_TEXT = 1000
_ANSWER_COLUMNS = ("id", "question", "reference", "answer")
_KEYS = (
    "dataset_digest", "model_digest", "template_digest", "seed", "total_samples", "answered_samples", "errors",
    "truncated", "unparsed", "prompt_tokens", "completion_tokens", "avg_loss", "perplexity", "seconds",
)  # fmt: skip


def report_of(done: DoneEval) -> Document:
    """Without answers where the run kept none. Blocks."""
    result = done.result
    dataset = (done.config.get("dataset") or {}).get("name", "")
    blocks: list[Block] = []
    if result.get("accuracy") is not None:
        said = f"{result.get('accuracy_metric') or 'accuracy'} {number(result['accuracy'])} on {dataset}"
        blocks.append(Paragraph(f"{said}, {result['total_samples']} questions."))
    if (told := saturation_of(result)) is not None:
        blocks.append(
            Paragraph(f"Saturated: {told} of the questions are right, so models cannot be told apart.", "open")
        )
    metrics: dict[str, Any] = result.get("metrics") or {}
    blocks += [
        Heading("Metrics"),
        Table(("metric", "mean", "95 % interval", "samples", "unparsed"), [_row(*one) for one in metrics.items()]),
        Intervals("Metrics with their 95 % intervals", _intervals(metrics)),
    ]
    outcomes: dict[str, int] = result.get("outcomes") or {}
    shown = [(name.replace("_", " "), count) for name, count in outcomes.items() if count]
    blocks += [Heading("What became of the questions"), Bars("Outcomes", shown)] if shown else []
    facts = [[key, str(result[key])] for key in _KEYS if result.get(key) is not None]
    blocks += [Heading("How it was asked"), Table(("", ""), facts), *_answers(done)]
    return Document(f"Eval of {done.model_id} on {dataset}", blocks)


def _row(name: str, metric: dict[str, Any]) -> list[str]:
    counts = (str(metric.get(key) or 0) for key in ("samples", "unparsed"))
    return [name, number(metric.get("mean")), between(metric.get("ci95")), *counts]


def _intervals(metrics: dict[str, Any]) -> list[Interval]:
    """Of those that lie between 0 and 1, so that they have one axis."""
    return [
        Interval(name, metric["ci95"][0], metric["mean"], metric["ci95"][1])
        for name, metric in metrics.items()
        if metric.get("ci95") is not None and metric.get("mean") is not None and 0 <= metric["mean"] <= 1
    ]


def _answers(done: DoneEval) -> list[Block]:
    try:
        records = records_of(done)
        main = decided_by(done.config, done.result)
    except (Conflict, EvalError):
        return []
    records.sort(key=lambda record: record.index)
    blocks: list[Block] = [Heading("Answers")]
    for verdict in ("failed", "wrong", "right"):
        found = [record for record in records if verdict_of(record, main) == verdict]
        if found:
            some = found[:_SHOWN_ANSWERS]
            title = f"{verdict}: {len(found)}" + (f", the first {len(some)}" if len(some) < len(found) else "")
            blocks.append(Table(_ANSWER_COLUMNS, [_answer(record) for record in some], folded=title))
    return blocks


def _answer(record: SampleRecord) -> list[str]:
    turns = record.input
    asked = turns if isinstance(turns, str) else turns[-1].get("content") if turns else ""
    return [_cut(record.id), _cut(asked), _cut(record.target), _cut(record.error or record.prediction)]


def _cut(value: object) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]} …"
