"""A training with TRL's GRPOTrainer as it is, which generates with a server and sends it the weights of every step:
`python -m tests.e2e.trl_grpo_run OUT URL STEPS`. Prints the log history as JSON.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoTokenizer, Qwen3ForCausalLM
from trl import GRPOConfig, GRPOTrainer

from demo.addition import split
from demo.trainer import START
from stepserve.client.trl import use_http_weights

QUESTIONS, ANSWERS = 32, 8  # of one step: that many answers to each


def right(completions: list[Any], answer: list[str], **_: Any) -> list[float]:
    """1 for the sum, 0 for anything else."""
    said = [each[0]["content"].strip() for each in completions]
    return [float(text == wanted) for text, wanted in zip(said, answer, strict=True)]


def main(out: Path, url: str, steps: int) -> None:
    torch.manual_seed(0)
    use_http_weights()
    tok = AutoTokenizer.from_pretrained(START, local_files_only=True)
    model = Qwen3ForCausalLM.from_pretrained(START, dtype=torch.float32, local_files_only=True)
    rows = [
        {"prompt": [{"role": "user", "content": example.question}], "answer": example.answer}
        for example in split()[0][: QUESTIONS * steps]
    ]
    arguments = GRPOConfig(
        output_dir=str(out),
        max_steps=steps,
        learning_rate=2e-4,
        lr_scheduler_type="constant",
        per_device_train_batch_size=QUESTIONS * ANSWERS,
        num_generations=ANSWERS,
        max_completion_length=8,
        use_vllm=True,
        vllm_mode="server",
        vllm_server_base_url=url,
        save_strategy="no",
        logging_steps=1,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        seed=0,
    )
    trainer = GRPOTrainer(
        model=model, reward_funcs=right, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=tok
    )
    trainer.train()
    print(json.dumps(trainer.state.log_history))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
