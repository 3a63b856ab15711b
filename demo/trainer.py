"""A trainer on a machine of its own, against a running server: `python -m demo.trainer [--host URL]`.

Takes the early demo checkpoint, which gets some additions wrong; pushes it, has it evaluated, has the server make
training data from its failures, trains on with what arrives, and pushes what came of it: each round a checkpoint, its
accuracy, and the shards that it asks for. What a training loop of your own needs of it are the lines with `hook`.
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen3ForCausalLM

from demo.train import encode, save
from stepserve import CheckpointHook, Client, Eval, probe_of
from stepserve.client.errors import StepserveError

START = Path(__file__).parent / "checkpoints" / "step-0300"
DATASET = "math_eval.jsonl"
_EXIT_INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Example:
    question: str
    answer: str


def loop(client: Client, folder: Path, rounds: int, examples: int, steps: int, run: str) -> list[float]:
    """Accuracy of each round's checkpoint: [rounds + 1]."""
    torch.manual_seed(0)
    tok = AutoTokenizer.from_pretrained(START, local_files_only=True)
    model = Qwen3ForCausalLM.from_pretrained(START, dtype=torch.float32, local_files_only=True)
    hook = CheckpointHook(run, client=client, activate=True, evals=[Eval(DATASET, max_samples=600)], keep=3)
    accuracies = []
    learnt: list[Example] = []  # of every round: a few new ones alone would have the model forget the rest
    for number in range(rounds + 1):
        step = number * steps
        saved = folder / f"step-{step}"
        save(model, tok, saved, {"global_step": step})
        hook.saved(saved, step, probe_of(model, tok))
        hook.drain()
        found = hook.results()
        if not found:
            sys.exit("The checkpoint was not evaluated; the log above says why.")
        (metrics,) = found
        accuracies.append(metrics.values[f"eval/{Eval(DATASET).label}/accuracy"])
        print(f"step {step:4d}  accuracy {accuracies[-1]:.3f}", flush=True)
        if number < rounds:
            made = list(generated(client, metrics.job_id, examples))
            print(f"           {len(made)} verified examples made from its failures", flush=True)
            learnt += made
            train_on(model, tok, learnt, steps)
    hook.close()
    return accuracies


def generated(client: Client, eval_job_id: str, examples: int) -> Iterator[Example]:
    """What the server makes of an eval's failures, shard by shard; one that was used is acknowledged."""
    config = {"source_eval_run_id": eval_job_id, "num_examples": examples, "max_tokens": 8, "replay_share": 0.3}
    job = client.datagen_job("active", "fix_eval_failures", config)
    client.wait_for_job(job.job_id)
    for shard in client.shards(job_id=job.job_id):
        for record in shard:
            said = {message["role"]: message["content"] for message in record["messages"]}
            yield Example(said["user"], said["assistant"])


def train_on(model: Qwen3ForCausalLM, tok: PreTrainedTokenizerFast, examples: list[Example], steps: int) -> None:
    if not examples:
        return
    rng = random.Random(0)
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.01)
    model.train()
    for _ in range(steps):
        ids, labels = encode(rng.choices(examples, k=64), tok)
        model(input_ids=ids, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", help="the server (default: INFERENCE_HOST and INFERENCE_PORT)")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--examples", type=int, default=500, help="asked for in each round")
    parser.add_argument("--steps", type=int, default=100, help="of training in each round")
    parser.add_argument("--run", default="demo-trainer")
    args = parser.parse_args(arguments)
    try:
        with Client(args.host) as client, tempfile.TemporaryDirectory() as folder:
            client.health()  # the hook would go on trying, since nothing of it may end a training
            loop(client, Path(folder), args.rounds, args.examples, args.steps, args.run)
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        sys.exit(_EXIT_INTERRUPTED)
    except (StepserveError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
