"""What a model's users would notice: answers to questions that no proof asks, and the probabilities of their tokens."""

import asyncio
import uuid
from collections.abc import Sequence
from typing import Any, Protocol

from vllm.sampling_params import RequestOutputKind, SamplingParams

from benchmarks.answer_change import Answers
from gateway.engine.proof import logprobs_of

_ANSWER_TOKENS = 6
_LONG = "Add the numbers and answer with the sum alone, without words. " * 5  # several blocks of the KV cache
QUESTIONS = [(7 * n % 90 + 10, (13 * n + 5) % 90 + 10) for n in range(60)]


class Tokenizer(Protocol):
    def apply_chat_template(self, conversation: list[dict[str, str]], **options: Any) -> Any: ...

    def encode(self, text: str, **options: Any) -> list[int]: ...


class HeldOut:
    """The questions as tokens; asked of an engine's client."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._asked = [_tokens(tokenizer, f"What is {one}+{other}?") for one, other in QUESTIONS]
        self._asked += [_tokens(tokenizer, f"{_LONG}What is {one}+{other}?") for one, other in QUESTIONS[:4]]
        sums = [one + other for one, other in [*QUESTIONS, *QUESTIONS[:4]]]
        self.answered = [
            [*tokens, *tokenizer.encode(f"{answer}<|im_end|>", add_special_tokens=False)]
            for tokens, answer in zip(self._asked, sums, strict=True)
        ]

    async def ask(self, client: Any) -> Answers:
        greedy = await asyncio.gather(*(_greedy(client, tokens) for tokens in self._asked))
        given = await logprobs_of(client, self.answered)
        return Answers([tokens for tokens, _ in greedy], [likely for _, likely in greedy], given)


def _tokens(tokenizer: Tokenizer, question: str) -> list[int]:
    turns = [{"role": "user", "content": question}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return tokenizer.encode(text, add_special_tokens=False)


async def _greedy(client: Any, tokens: Sequence[int]) -> tuple[list[int], list[float]]:
    params = SamplingParams(
        temperature=0.0,
        max_tokens=_ANSWER_TOKENS,
        logprobs=0,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
    request: Any = {"prompt_token_ids": list(tokens)}
    outputs = [output async for output in client.generate(request, params, f"held-out-{uuid.uuid4().hex}")]
    answer = outputs[-1].outputs[0]
    chosen = list(answer.token_ids)
    return chosen, [place[token].logprob for place, token in zip(answer.logprobs, chosen, strict=True)]
