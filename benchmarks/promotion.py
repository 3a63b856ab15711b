"""How often a sequential promotion is right, and how many samples it needs: `python -m benchmarks.promotion`.

Beside the test with a fixed number of pairs, planned in two ways: for exactly the difference there is (which nobody
knows before), and for half of it (the smallest that would matter). No engine is started; answers are drawn.
"""

import argparse
import math
from statistics import NormalDist

import numpy as np

from control.promotion.sequential import Floats, Units, p_above

SCENARIOS = (
    # fixed, broken, margin
    (0.30, 0.05, 0.0), (0.20, 0.05, 0.0), (0.15, 0.05, 0.0), (0.12, 0.08, 0.0),
    (0.10, 0.10, 0.0), (0.05, 0.05, 0.05), (0.02, 0.02, 0.05), (0.00, 0.00, 0.02), (0.05, 0.10, 0.05),
)  # fmt: skip
_RUNS_AT_ONCE = 250


def planned(fixed: float, broken: float, margin: float, alpha: float, power: float, of: float = 1.0) -> int | None:
    """Pairs of a one-sided fixed test that shows this share `of` the distance to the margin so often."""
    quantile = NormalDist().inv_cdf
    distance = (fixed - broken + margin) * of
    changes = fixed + broken
    if distance <= 0 or changes == 0:
        return None
    spread = math.sqrt(max(changes - (fixed - broken) ** 2, 1e-12))
    return math.ceil(((quantile(1 - alpha) + quantile(power)) * spread / distance) ** 2)


def needed(fixed: float, broken: float, margin: float, alpha: float, runs: int, pairs: int) -> tuple[float, Floats]:
    """The share of promotions, and the pairs [runs] until the end of each."""
    chance = np.random.default_rng(20260101)
    lengths = []
    promoted = 0
    for _ in range(0, runs, _RUNS_AT_ONCE):
        drawn = chance.random((_RUNS_AT_ONCE, pairs))
        differences = (drawn < fixed).astype(np.float64) - (drawn > 1 - broken)
        shown = p_above(Units.of(differences), -margin) <= alpha
        hit = shown.any(axis=1)
        promoted += int(hit.sum())
        lengths.append(np.where(hit, shown.argmax(axis=1) + 1, pairs))
    found: Floats = np.concatenate(lengths).astype(np.float64)
    return promoted / found.size, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--alpha", type=float, default=0.05)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--pairs", type=int, default=2000, help="how many there are")
    asked = parser.parse_args()
    print(f"alpha {asked.alpha:g}, at most {asked.pairs} pairs, {asked.runs} promotions each; fixed tests of power 0.8")
    columns = ("fixed", "broken", "margin", "promoted", "pairs", "median", "planned", "for half", "of that")
    print(" ".join(f"{column:>9}" for column in columns))
    for fixed, broken, margin in SCENARIOS:
        power, lengths = needed(fixed, broken, margin, asked.alpha, asked.runs, asked.pairs)
        exact = planned(fixed, broken, margin, asked.alpha, 0.8)
        half = planned(fixed, broken, margin, asked.alpha, 0.8, of=0.5)
        mean = float(lengths.mean())
        row = [f"{value:.2f}" for value in (fixed, broken, margin, power)]
        row += [f"{mean:.0f}", f"{np.median(lengths):.0f}", str(exact or "-"), str(half or "-")]
        row.append(f"{mean / half:.2f}" if half else "-")
        print(" ".join(f"{cell:>9}" for cell in row))


if __name__ == "__main__":
    main()
