"""How long deltas of weights are, without a server: `python -m benchmarks.delta_size`.

A matrix of weights in bfloat16 changes in two ways. *Any bits*: some elements, chosen at random, become any finite
number, which is the worst case. *A step*: all of it takes one small step in float32, of which bfloat16 shows what it
can. Against a push of everything, and against what the changed elements carry: which ones they are, and their new bits.
"""

import argparse
import time

import numpy as np
import torch

from benchmarks.weights import which_bytes
from stepserve.delta import apply_change, as_bytes, change_of

SIDE = 4096
SCALE = 0.02  # of weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    torch.manual_seed(0)
    weights = SCALE * torch.randn(SIDE, SIDE)
    print(f"{'change':<24} {'changed':>8} {'of all bytes':>13} {'of what they carry':>19} {'made':>9} {'applied':>9}")
    for share in (0.01, 0.05, 0.2):
        after = weights.bfloat16()
        chosen = torch.rand(after.shape) < share
        after[chosen] = torch.randint(0, 0x3F80, (int(chosen.sum()),), dtype=torch.int16).view(torch.bfloat16)
        print(row(f"any bits, {share:.0%}", weights.bfloat16(), after))
    for rate in (1e-6, 1e-5):
        step = rate * torch.sign(torch.randn_like(weights))  # as Adam's first one
        print(row(f"a step of {rate:g}", weights.bfloat16(), (weights + step).bfloat16()))


def row(name: str, before: torch.Tensor, after: torch.Tensor) -> str:
    """Times are of this process, by the megabyte of all weights."""
    old, new = (as_bytes(memoryview(each.view(torch.uint8).numpy().reshape(-1))) for each in (before, after))
    megabytes = len(new) / 1e6
    begun_s = time.process_time()
    change = b"".join(change_of(old, new, 2))
    made_s = time.process_time() - begun_s
    target = old.copy()
    begun_s = time.process_time()
    changed = apply_change(memoryview(change), target, 2)
    applied_s = time.process_time() - begun_s
    assert np.array_equal(target, new)
    carried_bytes = which_bytes(after.numel(), changed) + 2 * changed
    of_all, of_carried = len(change) / len(new), len(change) / carried_bytes
    return (
        f"{name:<24} {changed / after.numel():>8.1%} {of_all:>13.3f} {of_carried:>19.2f}"
        f" {1000 * made_s / megabytes:>6.1f} ms {1000 * applied_s / megabytes:>6.1f} ms"
    )


if __name__ == "__main__":
    main()
