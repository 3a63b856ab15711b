"""The metrics by name: what each needs of a dataset, where it is worked out and by what, and what its values add up to.

One can be installed: an entry point in the group `stepserve.eval_metrics`, its name that of the metric, its object a
`Metric`, or a `Family` for names with a parameter: `within@0.5` is made by the entry point `within`, called with "0.5".
Control and the scoring processes import it. It is then asked for by its name, as the others are.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import entry_points
from typing import Any, Literal, Protocol

from evals.errors import MetricBroken, UnknownMetric
from evals.sample import CodeTask
from evals.scorers import AnswerScorer, accuracy, against_targets, f1, multiple_choice, numeric, rouge_l
from evals.scorers.numeric import is_number

GROUP = "stepserve.eval_metrics"
Place = Literal["text", "process", "program", "choices", "loss", "judge"]
"""From the text alone, in another process, by running it, from log-probabilities of choices or of the reference, by
another model."""

_OPEN_PLACES = frozenset({"text", "process", "program"})

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


def unless_text(sample: Measurable) -> str | None:
    return "its answer is a program, which pass@k measures" if sample.code is not None else None


def unless_number(sample: Measurable) -> str | None:
    if sample.code is not None or sample.choices:
        return f"its answer is {'a program' if sample.code else 'a choice'}, not a number"
    missing = next((target for target in sample.accepted if not is_number(target)), None)
    return None if missing is None else f"the target {missing[:40]!r} has no number"


def unless_words(sample: Measurable) -> str | None:
    return "its answer is a choice's letter: multiple_choice measures it" if sample.choices else unless_text(sample)


def unless_choices(sample: Measurable) -> str | None:
    return None if sample.choices else "it has no choices"


def unless_program(sample: Measurable) -> str | None:
    return None if sample.code is not None else "it has no tests to run a program against"


def unless_reference(sample: Measurable) -> str | None:
    return None if sample.reference_text else "it has no reference answer"


@dataclass(frozen=True, slots=True)
class Metric:
    """`decides`: each answer is right or wrong. `misfit` says why a sample cannot have it, or None.

    `scorer` is for the places `text`, where it takes microseconds and raises nothing, and `process`, where it may be
    slow or die. `aggregate` makes one more number of all samples' values, shown beside their mean.
    """

    name: str
    place: Place
    decides: bool
    misfit: Callable[[Measurable], str | None] = unless_text
    k: int = 1
    scorer: AnswerScorer | None = None
    aggregate: Callable[[Sequence[float]], float] | None = None

    @property
    def needs_generation(self) -> bool:
        return self.place in {"text", "process", "program", "judge"}


Family = Callable[[str], Metric | None]
"""Called with a name's part after the `@`; None: it means nothing. The metric's name is the whole."""


_ONE_EACH = (
    Metric("accuracy", "text", True, scorer=accuracy),
    Metric("exact_match", "text", True, scorer=accuracy),
    Metric("numeric", "text", True, unless_number, scorer=against_targets(numeric)),
    Metric("math", "process", True, unless_words),
    Metric("multiple_choice", "text", True, unless_choices, scorer=multiple_choice),
    Metric("acc", "choices", True, unless_choices),
    Metric("acc_norm", "choices", True, unless_choices),
    Metric("f1", "text", False, unless_words, scorer=against_targets(f1)),
    Metric("rouge_l", "text", False, unless_words, scorer=against_targets(rouge_l)),
    Metric("bleu", "process", False, unless_words),
    Metric("chrf", "process", False, unless_words),
    Metric("judge", "judge", True),
    Metric("avg_loss", "loss", False, unless_reference),
    Metric("perplexity", "loss", False, unless_reference),
)
_BY_NAME = {metric.name: metric for metric in _ONE_EACH}


def _pass_at(parameter: str) -> Metric | None:
    if re.fullmatch("[1-9][0-9]{0,2}", parameter) is None or int(parameter) > MAX_PASS_K:
        return None
    return Metric(f"pass@{parameter}", "program", True, unless_program, int(parameter))


_FAMILIES: Mapping[str, Family] = {"pass": _pass_at}


def known_names() -> list[str]:
    """For a person."""
    installed = sorted(entry_points(group=GROUP).names - _BY_NAME.keys() - _FAMILIES.keys())
    return [*_BY_NAME, "pass@1", "pass@k for any k", *installed]


def metric_named(name: str) -> Metric | None:
    """None for an unknown name. Raises MetricBroken for one that is installed and cannot be used."""
    if name in _BY_NAME:
        return _BY_NAME[name]
    family, at, parameter = name.partition("@")
    if at and family in _FAMILIES:
        return _FAMILIES[family](parameter)
    return _installed(name)


def known_metric(name: str) -> Metric:
    """Raises UnknownMetric, MetricBroken."""
    metric = metric_named(name)
    if metric is None:
        raise UnknownMetric(name, known_names())
    return metric


def require(names: Sequence[str]) -> None:
    """Raises UnknownMetric, MetricBroken for the first that cannot be worked out."""
    for name in names:
        known_metric(name)


@lru_cache(maxsize=256)
def _installed(name: str) -> Metric | None:
    base, at, parameter = name.partition("@")
    point = next(iter(entry_points(group=GROUP, name=base)), None)
    if point is None:
        return None
    try:
        found = point.load()
    except (ImportError, AttributeError) as error:
        raise MetricBroken(name, f"{point.value} cannot be imported: {error}") from error
    if callable(found):
        found = found(parameter) if at else None
    elif at:
        found = None
    if found is None:
        return None
    if not isinstance(found, Metric):
        raise MetricBroken(name, f"{point.value} gives {type(found).__name__}, not an evals.metrics.Metric")
    if found.name != name:
        raise MetricBroken(name, f"{point.value} gives a metric that is called {found.name!r}")
    if found.place not in _OPEN_PLACES or (found.place != "program" and found.scorer is None):
        raise MetricBroken(name, "a metric of one's own has a scorer in `text` or `process`, or the place `program`")
    return found


def metrics_named(names: Sequence[str]) -> list[Metric]:
    """Each once, in the order asked for; those that `require` would not let pass are left out."""
    return [metric for name in dict.fromkeys(names) if (metric := _usable(name)) is not None]


def _usable(name: str) -> Metric | None:
    try:
        return metric_named(name)
    except MetricBroken:
        return None


def decisive(names: Sequence[str]) -> Metric:
    """The metric that `accuracy` and `correct` of a result stand for.

    `accuracy` or `exact_match` where one of them is asked for, else the first that decides between right and wrong,
    else `accuracy`, worked out beside the others.
    """
    asked = metrics_named(names)
    named = next((metric for metric in asked if metric.name in {"accuracy", "exact_match"}), None)
    return named or next((metric for metric in asked if metric.decides), _BY_NAME["accuracy"])


def decided_by(config: Mapping[str, Any], result: Mapping[str, Any]) -> Metric:
    """Of an eval that is done: what its result says, which of another harness's run is known only then."""
    name = result.get("accuracy_metric")
    return decisive([name] if isinstance(name, str) else config.get("metrics", []))


def scored(names: Sequence[str], has_text: Callable[[Metric], bool] = lambda _: True) -> list[Metric]:
    """What is worked out a sample: the metrics asked for but those of the loss, and the decisive one."""
    metrics = [metric for metric in metrics_named(names) if metric.place != "loss"]
    main = decisive(names)
    if main not in metrics and has_text(main):
        metrics.append(main)
    return metrics
