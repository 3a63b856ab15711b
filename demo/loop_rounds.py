"""What the rounds of the loop came to: the numbers of each, and the figure."""

from collections.abc import Sequence
from dataclasses import dataclass

from evals.intervals import wilson_95


@dataclass(frozen=True, slots=True)
class Measured:
    """The accuracy of a model on `questions` sealed ones, with its 95 % interval (Wilson)."""

    model: str
    accuracy: float
    interval: tuple[float, float]
    questions: int

    @classmethod
    def of(cls, model: str, accuracy: float, questions: int) -> "Measured":
        return cls(model, accuracy, wilson_95(round(accuracy * questions), questions), questions)


@dataclass(frozen=True, slots=True)
class Round:
    """`p` against "it is no better than the model before", of the promotion; `fixed`, `broken`: sealed questions.

    `jobs`: the ids of the eval, the data generation and the promotion. `seconds`: of each part.
    """

    number: int
    before: Measured
    after: Measured
    p: float
    fixed: int
    broken: int
    exam_accuracy: float
    examples: int
    replayed: int
    sealed_among_examples: int
    jobs: dict[str, str]
    seconds: dict[str, float]


def table(rounds: Sequence[Round]) -> str:
    """The figure: accuracy on the sealed questions with its interval, round by round."""
    lines = [
        f"{'round':>5}  {'accuracy':>8}  {'95 %':>15}  {'p':>7}  {'fixed':>5}  {'broken':>6}  {'examples':>8}  {'s':>4}"
    ]
    if rounds:
        lines.append(f"{0:>5}  {_accuracy(rounds[0].before)}")
    for one in rounds:
        counts = f"{one.p:>7.0e}  {one.fixed:>5}  {one.broken:>6}  {one.examples:>8}"
        lines.append(f"{one.number:>5}  {_accuracy(one.after)}  {counts}  {sum(one.seconds.values()):>4.0f}")
    return "\n".join(lines)


def _accuracy(measured: Measured) -> str:
    low, high = measured.interval
    return f"{measured.accuracy:>8.1%}  {f'{low:.1%} to {high:.1%}':>15}"


def told(one: Round) -> str:
    """A round in a line."""
    parts = ", ".join(f"{part} {seconds:.0f}" for part, seconds in one.seconds.items())
    return (
        f"Round {one.number}: {one.examples} examples, {one.replayed} of them replayed and"
        f" {one.sealed_among_examples} sealed; {one.after.model} is promoted with {one.after.accuracy:.1%} against"
        f" {one.before.accuracy:.1%} ({one.jobs['promotion']}; seconds: {parts})"
    )
