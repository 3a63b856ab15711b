"""Trainings with transformers' own Trainer, one a server: `python -m tests.integration.training_run OUT URL…`.

Prints a JSON list: the log history of each, what its other callbacks were told, and what is left of its checkpoints.
"""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from demo import tokenizer as demo_tokenizer
from demo.addition import split
from demo.train import build_model, encode
from stepserve import Client, StepserveCallback


class Additions(Dataset[dict[str, Any]]):
    def __init__(self, tok: Any) -> None:
        self.ids, self.labels = encode(split()[0][:64], tok)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": self.ids[index], "labels": self.labels[index]}


class Reporter(TrainerCallback):
    """What TensorBoard or W&B would get."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, dict[str, float]]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self.seen.append((state.global_step, logs))


def train(url: str, out: Path, steps: int, limit: int | None) -> dict[str, Any]:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    tok = demo_tokenizer.build()
    model = build_model(len(tok), tok.eos_token_id, tok.pad_token_id).to(torch.bfloat16)
    reporter = Reporter()
    client = Client(url, retry_s=1.0)
    ours = StepserveCallback("run", client=client, activate=True, evals=["d"], retry_s=1.0, drain_s=60.0)
    arguments = TrainingArguments(
        output_dir=str(out),
        max_steps=steps,
        per_device_train_batch_size=8,
        save_steps=2,
        logging_steps=1,
        save_total_limit=limit,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        seed=0,
    )
    trainer = Trainer(
        model=model, args=arguments, train_dataset=Additions(tok), processing_class=tok, callbacks=[ours, reporter]
    )
    ours.attach(trainer)
    trainer.train()
    return {
        "history": trainer.state.log_history,
        "reported": [[step, sorted(logs)] for step, logs in reporter.seen],
        "left": sorted(path.name for path in out.iterdir()),
    }


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    told = [train(url, Path(sys.argv[1]) / str(n), steps=4, limit=1) for n, url in enumerate(sys.argv[2:])]
    print(json.dumps(told))
