"""Trains the demo model: `python -m demo.train --out DIR` (about four minutes on two cores).

A Qwen3-architecture model of 0.6 M parameters learns two-digit addition. Checkpoints are saved along the way in
the layout every Hugging Face trainer writes, so an early one is really worse than the final one.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from demo import tokenizer as demo_tokenizer
from demo.addition import batches, split

IGNORED = -100


def build_model(vocabulary_size: int, end_id: int, pad_id: int) -> Qwen3ForCausalLM:
    config = Qwen3Config(
        vocab_size=vocabulary_size,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,  # vLLM's CPU attention takes multiples of 32
        max_position_embeddings=512,
        tie_word_embeddings=True,
        eos_token_id=end_id,
        bos_token_id=None,
        pad_token_id=pad_id,
    )
    return Qwen3ForCausalLM(config)


class Exercise(Protocol):
    """What is learnt: an answer to a question."""

    @property
    def question(self) -> str: ...
    @property
    def answer(self) -> str: ...


def encode(batch: Sequence[Exercise], tok: PreTrainedTokenizerFast) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and labels, both [batch, longest]; the loss sees the answer and its end-of-turn token alone."""
    pad_id, rows, labels = tok.pad_token_id, [], []
    for exercise in batch:
        turns = [{"role": "user", "content": exercise.question}]
        prompt = tok(tok.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))["input_ids"]
        answer = tok(exercise.answer + demo_tokenizer.TURN_END)["input_ids"]
        rows.append(prompt + answer)
        labels.append([IGNORED] * len(prompt) + answer)
    longest = max(map(len, rows))
    ids = torch.tensor([row + [pad_id] * (longest - len(row)) for row in rows])
    targets = torch.tensor([row + [IGNORED] * (longest - len(row)) for row in labels])
    return ids, targets


def save(model: Qwen3ForCausalLM, tok: PreTrainedTokenizerFast, folder: Path, state: dict[str, Any]) -> None:
    """Writes a bfloat16 copy, its tokenizer and the trainer's state, as transformers' Trainer lays them out."""
    copy = Qwen3ForCausalLM(model.config).to(torch.bfloat16)
    copy.load_state_dict(model.state_dict())
    copy.save_pretrained(folder)
    tok.save_pretrained(folder)
    (folder / "trainer_state.json").write_text(json.dumps(state, indent=2) + "\n")


def train(out: Path, steps: int, save_at: set[int], batch_size: int, peak_lr: float, seed: int) -> None:
    torch.manual_seed(seed)
    tok = demo_tokenizer.build()
    model = build_model(len(tok), tok.eos_token_id, tok.pad_token_id)
    optimiser = torch.optim.AdamW(model.parameters(), lr=peak_lr, weight_decay=0.01, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=peak_lr, total_steps=steps)
    training, _ = split()
    started = time.monotonic()
    for step, batch in enumerate(batches(training, batch_size, seed), start=1):
        ids, labels = encode(batch, tok)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad(set_to_none=True)
        if step % 50 == 0:
            print(f"step {step:5d}  loss {loss.item():.4f}  {time.monotonic() - started:6.1f} s", flush=True)
        if step in save_at or step == steps:
            state = {"global_step": step, "max_steps": steps, "loss": round(loss.item(), 4), "seed": seed}
            save(model, tok, out / f"step-{step:04d}", state)
        if step == steps:
            return


def write_eval_set(path: Path) -> None:
    """The held-out additions as `{"question", "answer"}` lines: the eval set that a new server starts with."""
    _, held_out = split()
    lines = (json.dumps({"question": addition.question, "answer": addition.answer}) for addition in held_out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder that receives one step-NNNN folder each")
    parser.add_argument("--eval-set", type=Path, help="also write the held-out questions to this JSONL file")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--save-at", type=int, nargs="*", default=[300, 500])
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--peak-lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.eval_set:
        write_eval_set(args.eval_set)
    train(args.out, args.steps, set(args.save_at), args.batch_size, args.peak_lr, args.seed)


if __name__ == "__main__":
    main()
