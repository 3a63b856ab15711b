"""How many tokens one step of an engine computes: many while only jobs are inside, few while people wait.

A step has costs that do not depend on what it computes, so a job is done sooner in large ones. But who asks in the
meantime waits for the step that runs, and who reads a stream waits for every one.
"""

from collections.abc import Iterable
from typing import Protocol

from stepserve.contract import BATCH_PRIORITY

# What batch work adds of its prompts, at most, to a step that people wait for. Its answers go on, by a token each: vLLM
# computes those before whatever is new, so a step without room for them would leave out those who wait.
BATCH_PROMPT_TOKENS_BESIDE = 256


class Unfinished(Protocol):
    """What is looked at of a request that vLLM's scheduler has; counts are of tokens."""

    @property
    def priority(self) -> int: ...
    @property
    def num_prompt_tokens(self) -> int: ...
    @property
    def num_computed_tokens(self) -> int: ...
    @property
    def num_tokens_with_spec(self) -> int: ...


def step_tokens(requests: Iterable[Unfinished], usual: int, large: int) -> int:
    """The most tokens that the next step may compute for these requests.

    `usual` while people are inside alone, less while batch work is there too, `large` while there is nothing else. A
    prompt longer than a usual step makes no large ones: what its log-probabilities take in memory grows with the step.
    """
    waited_for = answers = 0
    batch = long = False
    for request in requests:
        if request.priority < BATCH_PRIORITY:
            waited_for += max(1, request.num_tokens_with_spec - request.num_computed_tokens)
        else:
            batch = True
            long = long or request.num_prompt_tokens > usual
            answers += request.num_computed_tokens >= request.num_prompt_tokens
    if not waited_for:
        return usual if long else large
    return min(usual, waited_for + answers + BATCH_PROMPT_TOKENS_BESIDE) if batch else usual
