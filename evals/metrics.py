"""The metrics by name: what each needs of a dataset, where it is worked out, and what its mean is a mean of."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from evals.sample import CodeTask
from evals.scorers import ANSWER_SCORERS
from evals.scorers.numeric import is_number

Place = Literal["text", "process", "program", "choices", "loss", "judge"]
"""From the text alone, in another process, by running it, from log-probabilities of choices or of the reference, by
another model."""

MAX_PASS_K = 256


class Measurable(Protocol):
    """What decides which metrics a question can have; samples and their records have it."""

    @property
    def accepted(self) -> Sequence[str]: ...
    @property
    def choices(self) -> Sequence[str]: ...
    @property
    def code(self) -> CodeTask | None: ...
    @property
    def reference_text(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Metric:
    """`decides`: each answer is right or wrong. `misfit` says why a sample cannot have it, or None."""

    name: str
    place: Place
    decides: bool
    misfit: Callable[[Measurable], str | None]
    k: int = 1

    @property
    def needs_generation(self) -> bool:
        return self.place in {"text", "process", "program", "judge"}


def _text(sample: Measurable) -> str | None:
    return "its answer is a program, which pass@k measures" if sample.code is not None else None


def _number(sample: Measurable) -> str | None:
    if sample.code is not None or sample.choices:
        return f"its answer is {'a program' if sample.code else 'a choice'}, not a number"
    missing = next((target for target in sample.accepted if not is_number(target)), None)
    return None if missing is None else f"the target {missing[:40]!r} has no number"


def _words(sample: Measurable) -> str | None:
    return "its answer is a choice's letter: multiple_choice measures it" if sample.choices else _text(sample)


def _choices(sample: Measurable) -> str | None:
    return None if sample.choices else "it has no choices"


def _program(sample: Measurable) -> str | None:
    return None if sample.code is not None else "it has no tests to run a program against"


def _reference(sample: Measurable) -> str | None:
    return None if sample.reference_text else "it has no reference answer"


_ONE_EACH = (
    Metric("accuracy", "text", True, _text),
    Metric("exact_match", "text", True, _text),
    Metric("numeric", "text", True, _number),
    Metric("math", "process", True, _words),
    Metric("multiple_choice", "text", True, _choices),
    Metric("acc", "choices", True, _choices),
    Metric("acc_norm", "choices", True, _choices),
    Metric("f1", "text", False, _words),
    Metric("rouge_l", "text", False, _words),
    Metric("bleu", "process", False, _words),
    Metric("chrf", "process", False, _words),
    Metric("judge", "judge", True, _text),
    Metric("avg_loss", "loss", False, _reference),
    Metric("perplexity", "loss", False, _reference),
)
_BY_NAME = {metric.name: metric for metric in _ONE_EACH}
NAMES: tuple[str, ...] = (*_BY_NAME, "pass@1", "pass@k for any k")
assert {metric.name for metric in _ONE_EACH if metric.place == "text"} == ANSWER_SCORERS.keys()


def metric_named(name: str) -> Metric | None:
    """`pass@3` is the one family of names; None for an unknown name."""
    if match := re.fullmatch(r"pass@([1-9][0-9]{0,2})", name):
        k = int(match[1])
        return Metric(name, "program", True, _program, k) if k <= MAX_PASS_K else None
    return _BY_NAME.get(name)


def metrics_named(names: Sequence[str]) -> list[Metric]:
    """Each once, in the order asked for; unknown ones are left out."""
    return [metric for name in dict.fromkeys(names) if (metric := metric_named(name)) is not None]


def decisive(names: Sequence[str]) -> Metric:
    """The metric that `accuracy` and `correct` of a result stand for.

    `accuracy` or `exact_match` where one of them is asked for, else the first that decides between right and wrong,
    else `accuracy`, worked out beside the others.
    """
    asked = metrics_named(names)
    named = next((metric for metric in asked if metric.name in {"accuracy", "exact_match"}), None)
    return named or next((metric for metric in asked if metric.decides), _BY_NAME["accuracy"])


def scored(names: Sequence[str], has_text: Callable[[Metric], bool] = lambda _: True) -> list[Metric]:
    """What is worked out a sample: the metrics asked for but those of the loss, and the decisive one."""
    metrics = [metric for metric in metrics_named(names) if metric.place != "loss"]
    main = decisive(names)
    if main not in metrics and has_text(main):
        metrics.append(main)
    return metrics
