"""Goes on training a demo checkpoint on shards: `python -m demo.shard_training --from DIR --out DIR SHARD…`."""

import argparse
import json
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, Qwen3ForCausalLM

from demo.train import encode, save
from stepserve import probe_of


@dataclass(frozen=True, slots=True)
class Example:
    question: str
    answer: str


def examples_of(shards: Iterable[Path]) -> list[Example]:
    """Each conversation's first question and its last answer."""
    rows = (json.loads(line) for shard in shards for line in shard.read_text().splitlines())
    return [Example(row["messages"][0]["content"], row["messages"][-1]["content"]) for row in rows]


def go_on(
    checkpoint: Path,
    out: Path,
    examples: Sequence[Example],
    *,
    steps: int = 150,
    batch_size: int = 128,
    peak_lr: float = 5e-4,
    seed: int = 0,
) -> dict[str, Any] | None:
    """Writes the trained checkpoint to `out`; returns its probe, which goes with a push (stepserve.probe_of).

    Blocks for about a second every six steps.
    """
    torch.manual_seed(seed)
    chance = random.Random(seed)  # noqa: S311  # no secret
    tok = AutoTokenizer.from_pretrained(checkpoint)
    model = Qwen3ForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    optimiser = torch.optim.AdamW(model.parameters(), lr=peak_lr, weight_decay=0.01, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=peak_lr, total_steps=steps)
    started = time.monotonic()
    last = 0.0
    for step in range(1, steps + 1):
        ids, labels = encode(chance.choices(examples, k=batch_size), tok)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad(set_to_none=True)
        last = loss.item()
        if step % 50 == 0:
            print(f"step {step:5d}  loss {last:.4f}  {time.monotonic() - started:6.1f} s", flush=True)
    save(model, tok, out, {"global_step": steps, "max_steps": steps, "loss": round(last, 4), "seed": seed})
    return probe_of(model, tok)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="checkpoint", type=Path, required=True, help="the checkpoint to begin with")
    parser.add_argument("--out", type=Path, required=True, help="the folder that receives the new one")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("shards", type=Path, nargs="+", help="shards in the format messages")
    args = parser.parse_args()
    go_on(args.checkpoint, args.out, examples_of(args.shards), steps=args.steps)


if __name__ == "__main__":
    main()
