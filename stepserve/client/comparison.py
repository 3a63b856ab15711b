"""Two evals of the same questions in a sentence, for somebody who has to choose between two checkpoints. Pure."""

from collections.abc import Mapping
from typing import Any, Final

ALPHA: Final = 0.05
"""Above this p a difference may well be chance."""


def sentence(told: Mapping[str, Any]) -> str:
    """Of what GET /eval/compare says: which is better, by how much, how sure that is.

    `step-1500 is better than step-500: +6.3 points (4.5 to 8.3), 38 fixed, 0 broken, p < 0.001.`
    """
    before, after = (str(told[side]["model_id"]) for side in ("a", "b"))
    if before == after:
        before, after = (f"{told[side]['model_id']} ({told[side]['job_id']})" for side in ("a", "b"))
    facts = [f"{points(told['difference'])}{_interval(told['difference_ci95'])}"]
    if "fixed" in told:
        facts.append(f"{told['fixed']} fixed, {told['broken']} broken")
    facts.append(p_value(told["p"]))
    return f"{after} {_verdict(told)} {before}: {', '.join(facts)}."


def is_sure(told: Mapping[str, Any]) -> bool:
    """The difference is not likely to be chance."""
    return bool(told["p"] < ALPHA and told["difference"])


def doubt(told: Mapping[str, Any]) -> str:
    """What more would tell, where nobody can; empty where the difference is sure."""
    smallest = told.get("smallest_detectable_difference")
    if is_sure(told) or smallest is None:
        return ""
    return (
        f"{told['paired']:,} questions show a difference of {points(smallest).lstrip('+')} or more four times in five;"
        " ask more of them to see a smaller one."
    )


def points(difference: float) -> str:
    """Of two shares: `+6.3 points`."""
    return f"{100 * difference:+.1f} points"


def p_value(p: float) -> str:
    """Below a thousandth nobody reads the digits."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def _verdict(told: Mapping[str, Any]) -> str:
    if not is_sure(told):
        return "cannot be told from"
    return "is better than" if told["difference"] > 0 else "is worse than"


def _interval(ends: list[float] | None) -> str:
    return "" if ends is None else f" ({100 * ends[0]:.1f} to {100 * ends[1]:.1f})"
