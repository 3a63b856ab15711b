"""Reinforcement learning against a running server: `python -m demo.rl_loop [--host URL]`.

Takes the early demo checkpoint, which gets some additions wrong, and teaches it by nothing but whether its answers are
right: the server generates several answers to each question, those that are better than the others to the same question
become more likely (GRPO's advantage, one step a batch), and the new weights are pushed into the server, which proves
them and answers the next questions with them. No file is written, and no worked example is shown.
"""

import argparse
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import httpx
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen3ForCausalLM

from demo.addition import Addition, split
from demo.trainer import START
from stepserve import Client, probe_of

QUESTIONS, ANSWERS = 32, 8  # of one step: that many answers to each
HELD_OUT = 400
_MOST_TOKENS = 8
_MOST_AT_ONCE = 200
_LEARNING_RATE = 2e-4


@dataclass(frozen=True, slots=True)
class Sampled:
    """One answer of the server's. `ids`: of the prompt and, after `prompt_tokens`, of the answer."""

    ids: list[int]
    prompt_tokens: int
    reward: float


@dataclass(frozen=True, slots=True)
class Policy:
    """The model as the server has it, asked by token ids."""

    http: httpx.Client
    tok: PreTrainedTokenizerFast

    def sample(self, additions: Sequence[Addition]) -> list[list[Sampled]]:
        """[n_additions][ANSWERS]"""
        found = [self._sampled(addition, ids, said) for addition, ids, said in self._asked(additions, ANSWERS, 1.0)]
        return [found[begin : begin + ANSWERS] for begin in range(0, len(found), ANSWERS)]

    def accuracy(self, additions: Sequence[Addition]) -> float:
        """The share of right answers where the likeliest token is taken each time."""
        chunks = [additions[begin : begin + _MOST_AT_ONCE] for begin in range(0, len(additions), _MOST_AT_ONCE)]
        rewards = [self._sampled(*each).reward for chunk in chunks for each in self._asked(chunk, 1, 0.0)]
        return sum(rewards) / len(rewards)

    def _asked(
        self, additions: Sequence[Addition], n: int, temperature: float
    ) -> Iterator[tuple[Addition, list[int], list[int]]]:
        """Each question `n` times, with its prompt's tokens and those of an answer."""
        prompts = [self._prompt(addition) for addition in additions]
        body = {
            "model": "active",
            "prompt": prompts,
            "n": n,
            "max_tokens": _MOST_TOKENS,
            "temperature": temperature,
            "return_token_ids": True,
        }
        answer = self.http.post("/v1/completions", json=body)
        answer.raise_for_status()
        for number, choice in enumerate(answer.json()["choices"]):
            yield additions[number // n], prompts[number // n], choice["token_ids"]

    def _prompt(self, addition: Addition) -> list[int]:
        messages = [{"role": "user", "content": addition.question}]
        text = self.tok.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids: list[int] = self.tok.encode(text, add_special_tokens=False)
        return ids

    def _sampled(self, addition: Addition, prompt: list[int], said: list[int]) -> Sampled:
        text = self.tok.decode(said, skip_special_tokens=True)
        return Sampled([*prompt, *said], len(prompt), float(text.strip() == addition.answer))


def improve(model: Qwen3ForCausalLM, optimiser: torch.optim.Optimizer, groups: Sequence[Sequence[Sampled]]) -> None:
    """One step: each answer's tokens become as much likelier as the answer is better than those of its group."""
    chosen: list[tuple[Sampled, float]] = []
    for group in groups:
        rewards = torch.tensor([each.reward for each in group])
        if rewards.std() > 0:  # where all are right, or none is, there is nothing to learn
            advantages = (rewards - rewards.mean()) / rewards.std()
            chosen += zip(group, advantages.tolist(), strict=True)
    if not chosen:
        return
    longest = max(len(each.ids) for each, _ in chosen)
    ids = torch.zeros(len(chosen), longest, dtype=torch.long)
    weights = torch.zeros(len(chosen), longest - 1)
    for row, (each, advantage) in enumerate(chosen):
        ids[row, : len(each.ids)] = torch.tensor(each.ids)
        weights[row, each.prompt_tokens - 1 : len(each.ids) - 1] = advantage
    logits = model(input_ids=ids).logits[:, :-1]
    logprobs = torch.log_softmax(logits.float(), -1).gather(-1, ids[:, 1:, None])[..., 0]
    loss = -(weights * logprobs).sum() / (weights != 0).sum()
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()


def loop(client: Client, http: httpx.Client, steps: int, every: int) -> list[float]:
    """Accuracies on additions that are never asked for rewards: before, and after each `every` steps."""
    torch.manual_seed(0)
    tok = AutoTokenizer.from_pretrained(START, local_files_only=True)
    model = Qwen3ForCausalLM.from_pretrained(START, dtype=torch.float32, local_files_only=True)
    optimiser = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE, weight_decay=0.0)
    trained, held_out = split()
    policy, rng = Policy(http, tok), random.Random(0)
    client.push_weights(model, version="rl-0", probe=probe_of(model, tok))
    accuracies = [policy.accuracy(held_out[:HELD_OUT])]
    print(f"step   0  held-out accuracy {accuracies[0]:.3f}", flush=True)
    began_s = time.monotonic()
    for step in range(1, steps + 1):
        groups = policy.sample(rng.sample(trained, QUESTIONS))
        improve(model, optimiser, groups)
        pushed = client.push_weights(model, version=f"rl-{step}", probe=probe_of(model, tok))
        if step % every == 0:
            accuracies.append(policy.accuracy(held_out[:HELD_OUT]))
            reward = sum(each.reward for group in groups for each in group) / (QUESTIONS * ANSWERS)
            print(
                f"step {step:3d}  held-out accuracy {accuracies[-1]:.3f}  reward {reward:.3f}  version {pushed.version}"
                f"  paused {pushed.paused_ms:.0f} ms  {time.monotonic() - began_s:.0f} s",
                flush=True,
            )
    return accuracies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="http://127.0.0.1:8765", help="the server; its active model must be a demo's")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--every", type=int, default=20, help="steps between two measurements")
    arguments = parser.parse_args()
    with Client(arguments.host) as client, httpx.Client(base_url=arguments.host, timeout=120.0) as http:
        accuracies = loop(client, http, arguments.steps, arguments.every)
    print(f"{accuracies[0]:.3f} -> {accuracies[-1]:.3f}")


if __name__ == "__main__":
    main()
