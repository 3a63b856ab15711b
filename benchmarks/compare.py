"""What changed between two records beyond noise: `python -m benchmarks.compare A.json B.json`.

For each metric that both have: the median of B over that of A, with an interval that holds for all metrics together
(95 %, Bonferroni). Records that were measured in turns are compared round by round; of others the rounds are drawn each
by themselves, which also finds what the machine did meanwhile. The interval is a percentile bootstrap of the median of
log ratios (Efron and Tibshirani 1993, chapter 13), 4,000 draws. Exits with 1 where something is worse than
`--tolerance`, beyond noise.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.record import Better, Metric, Record

_DRAWS = 4_000
_LEVEL = 0.95
_FEW = 6  # rounds, below which an interval says little

Verdict = Literal["better", "worse", "same", "too few rounds"]


@dataclass(frozen=True, slots=True)
class Change:
    """`ratio`: B over A; `low`, `high`: the interval of it."""

    name: str
    before: float
    after: float
    ratio: float
    low: float
    high: float
    verdict: Verdict


def changes(before: Record, after: Record, tolerance: float = 0.0, seed: int = 0) -> list[Change]:
    """Of every metric in both. `tolerance`: a change up to this share is the same."""
    pairs = [(each, other) for each in before.metrics if (other := after.metric(each.name)) is not None]
    generator = np.random.default_rng(seed)
    paired = before.turns is not None and before.turns == after.turns
    return [_change(one, other, paired, 1 - (1 - _LEVEL) / len(pairs), tolerance, generator) for one, other in pairs]


def _change(
    one: Metric, other: Metric, paired: bool, level: float, tolerance: float, generator: np.random.Generator
) -> Change:
    before, after = np.log(one.rounds), np.log(other.rounds)
    if paired and len(before) == len(after):
        ratio = float(np.median(after - before))
        drawn = _medians(after - before, generator)
    else:
        ratio = float(np.median(after) - np.median(before))
        drawn = _medians(after, generator) - _medians(before, generator)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    enough = min(len(before), len(after)) >= _FEW
    return Change(
        one.name,
        float(np.exp(np.median(before))),
        float(np.exp(np.median(after))),
        float(np.exp(ratio)),
        float(np.exp(low)),
        float(np.exp(high)),
        _verdict(one.better, float(low), float(high), float(np.log1p(tolerance))) if enough else "too few rounds",
    )


def _medians(values: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.float64]:
    """[_DRAWS]"""
    drawn: NDArray[np.float64] = np.median(generator.choice(values, (_DRAWS, len(values))), axis=1)
    return drawn


def _verdict(better: Better, low: float, high: float, margin: float) -> Verdict:
    if low > margin:
        return "better" if better == "higher" else "worse"
    if high < -margin:
        return "worse" if better == "higher" else "better"
    return "same"


def report(before: Record, after: Record, found: list[Change]) -> str:
    """A table for people."""
    how = "in turns" if before.turns is not None and before.turns == after.turns else "each by itself"
    lines = [f"{before.commit} to {after.commit}, measured {how}"]
    if (before.cpus, before.vllm, before.python) != (after.cpus, after.vllm, after.python):
        lines.append(
            f"not alike: {before.cpus} and {after.cpus} processors, vLLM {before.vllm} and {after.vllm},"
            f" Python {before.python} and {after.python}"
        )
    width = max((len(each.name) for each in found), default=6)
    lines.append(f"{'metric':{width}}     before      after   ratio   interval         ")
    lines += [
        f"{each.name:{width}}   {each.before:8.3f}   {each.after:8.3f}   {each.ratio:5.3f}"
        f"   {each.low:5.3f} to {each.high:5.3f}   {each.verdict}"
        for each in found
    ]
    return "\n".join(line.rstrip() for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, metavar="A.json")
    parser.add_argument("after", type=Path, metavar="B.json")
    parser.add_argument(
        "--tolerance", type=float, default=0.02, help="a change up to this share is none (default 0.02)"
    )
    args = parser.parse_args()
    try:
        before, after = Record.read(args.before), Record.read(args.after)
    except ValueError as error:
        parser.error(str(error))
    found = changes(before, after, args.tolerance)
    if not found:
        parser.error(f"{args.before} and {args.after} have no metric in common")
    print(report(before, after, found))
    return int(any(each.verdict == "worse" for each in found))


if __name__ == "__main__":
    sys.exit(main())
