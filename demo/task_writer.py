"""Trains the demo's task writer: `python -m demo.task_writer --out DIR` (some minutes on two cores).

The final demo checkpoint adds, and answers every other prompt with numbers. From there this model goes on learning what
self_instruct asks for: more of a numbered list of problems or tasks (it writes additions), whether a task is a
classification (none is), and an instance of a task. So the main strategy can be seen at work without a large model.
"""

import argparse
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from datagen.instruction_prompts import INPUT_FIRST, IS_CLASSIFICATION, list_prompt
from datagen.seeds import shipped_seeds
from datagen.strategies.self_instruct import task_text
from demo import tokenizer as demo_tokenizer
from demo.addition import split
from demo.train import encode, save

START = Path(__file__).parent / "checkpoints" / "step-1500"
CONTEXT_TOKENS = 1024
_LIST_LENGTH = 8
_SHOWN = (1, 1, 1, 1, 2, 2, 4, 8)  # self_instruct shows 8, and fewer where the context has no room
_MOST_PROMPT_BYTES = CONTEXT_TOKENS - 300  # a list of eight takes some 200, the template some 40


@dataclass(frozen=True, slots=True)
class Exercise:
    question: str
    answer: str


class Exercises:
    """Endless ones, in an order that `seed` alone decides. Held-out additions are in none of them."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)  # noqa: S311  # no secret
        self._additions, _ = split()
        seeds = shipped_seeds()
        self._problems = [task_text(task) for task in seeds.of_domain("math")]
        self._tasks = [task_text(task) for task in seeds.tasks]
        self._domains = ["", *seeds.domains]

    def additions(self, count: int) -> list[Exercise]:
        return [Exercise(each.question, each.answer) for each in self._chance.choices(self._additions, k=count)]

    def lists(self, count: int) -> list[Exercise]:
        """With as many demonstrations each; three of four are of mathematical problems."""
        shown = self._chance.choice(_SHOWN)
        return [self._list(shown, problems=number % 4 != 0) for number in range(count)]

    def steps(self, count: int) -> list[Exercise]:
        """The questions about a single task."""
        found = self._chance.choices(self._additions, k=count)
        tasks = [(addition.question, addition.answer) for addition in found]
        return [
            Exercise(IS_CLASSIFICATION.format(instruction=task), "No")
            if number % 2
            else Exercise(INPUT_FIRST.format(instruction=task), f"Input: None\nOutput: {answer}")
            for number, (task, answer) in enumerate(tasks)
        ]

    def _list(self, shown: int, *, problems: bool) -> Exercise:
        chance = self._chance
        written = chance.randint(0, shown)
        additions = chance.sample(self._additions, written + _LIST_LENGTH)
        tasks = [addition.question for addition in additions[:written]]
        tasks += chance.sample(self._problems if problems else self._tasks, shown - written)
        chance.shuffle(tasks)
        domain = chance.choice(self._domains)
        while len(prompt := list_prompt(tasks, domain, problems=problems)) > _MOST_PROMPT_BYTES:
            tasks.pop()
        first, *others = [addition.question for addition in additions[written:]]
        numbered = [f"{number}. {task}" for number, task in enumerate(others, start=len(tasks) + 2)]
        return Exercise(prompt, "\n".join([first, *numbered]))


def train(start: Path, out: Path, steps: int, peak_lr: float, seed: int) -> None:
    """Writes the checkpoint `out`; blocks for some minutes."""
    torch.manual_seed(seed)
    tok = demo_tokenizer.build()
    tok.model_max_length = CONTEXT_TOKENS
    model = Qwen3ForCausalLM.from_pretrained(start, dtype=torch.float32, local_files_only=True)
    model.config.max_position_embeddings = CONTEXT_TOKENS
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=peak_lr, weight_decay=0.01, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=peak_lr, total_steps=steps)
    exercises = Exercises(seed)
    started = time.monotonic()
    losses: list[float] = []
    for step in range(1, steps + 1):
        losses = [
            _learn(model, tok, group) for group in (exercises.additions(4), exercises.lists(6), exercises.steps(2))
        ]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad(set_to_none=True)
        if step % 10 == 0:
            shown = "  ".join(f"{loss:.4f}" for loss in losses)
            print(f"step {step:5d}  losses {shown}  {time.monotonic() - started:6.1f} s", flush=True)
    state = {"global_step": steps, "max_steps": steps, "loss": round(losses[0], 4), "seed": seed}
    save(model, tok, out, state)


def _learn(model: Qwen3ForCausalLM, tok: PreTrainedTokenizerFast, group: Sequence[Exercise]) -> float:
    """Adds the group's gradient; returns its loss."""
    ids, labels = encode(group, tok)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(input_ids=ids, labels=labels).loss
    loss.backward()
    found: float = loss.item()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the folder that receives the checkpoint")
    parser.add_argument("--from", dest="start", type=Path, default=START, help="the checkpoint to begin with")
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--peak-lr", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    train(args.start, args.out, args.steps, args.peak_lr, args.seed)


if __name__ == "__main__":
    main()
