"""A training with TRL's SFTTrainer in an environment of its own: `python -m tests.e2e.trl_run OUT URL RUN`.

Prints the log history as JSON.
"""

import json
import sys
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoTokenizer, Qwen3ForCausalLM
from trl import SFTConfig, SFTTrainer

from demo.addition import split
from demo.trainer import START
from stepserve import Client, Eval, StepserveCallback


def main(out: Path, url: str, run: str) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    tok = AutoTokenizer.from_pretrained(START, local_files_only=True)
    model = Qwen3ForCausalLM.from_pretrained(START, dtype=torch.bfloat16, local_files_only=True)
    rows = [
        {"prompt": [{"role": "user", "content": example.question}],
         "completion": [{"role": "assistant", "content": example.answer}]}
        for example in split()[0][:64]
    ]  # fmt: skip
    evals = [Eval("math_eval.jsonl", max_samples=50)]
    callback = StepserveCallback(run, client=Client(url), activate=True, evals=evals, drain_s=120.0)
    arguments = SFTConfig(
        output_dir=str(out),
        max_steps=4,
        per_device_train_batch_size=8,
        save_steps=2,
        save_total_limit=1,
        logging_steps=1,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        seed=0,
    )
    trainer = SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tok,
        callbacks=[callback],
    )
    callback.attach(trainer)
    trainer.train()
    print(json.dumps(trainer.state.log_history))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
