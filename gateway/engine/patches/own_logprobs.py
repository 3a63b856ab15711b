"""Each request gets the log-probabilities that it asked for, whatever others in its step ask for.

A request may name tokens by their ids (`logprob_token_ids`) instead of asking for the likeliest. While one such request
is in a step, vLLM gives every other row of the step as many places as that one named, filled with minus infinity.
"""

from typing import TYPE_CHECKING, Any

from gateway.engine.patches.patch import Patch

if TYPE_CHECKING:
    import torch
    from vllm.v1.outputs import LogprobsTensors


def give_each_its_own() -> None:
    """For this process, which is a worker's."""
    from vllm.v1.sample.sampler import Sampler

    sample, named_alone = Sampler.forward, Sampler.gather_specific_token_logprobs

    def forward(sampler: Any, logits: Any, sampling_metadata: Any, *args: Any, **options: Any) -> Any:
        sampler.stepserve_likeliest = sampling_metadata.max_num_logprobs
        return sample(sampler, logits, sampling_metadata, *args, **options)

    def named_and_likeliest(sampler: Any, logprobs: Any, ids: dict[int, list[int]], sampled: Any) -> Any:
        named = named_alone(sampler, logprobs, ids, sampled)
        likeliest = sampler.stepserve_likeliest
        if named is None or likeliest is None or likeliest < 0:
            return named
        return joined(named, sampler.gather_logprobs(logprobs, likeliest, token_ids=sampled), list(ids))

    Sampler.forward = forward
    Sampler.gather_specific_token_logprobs = named_and_likeliest


def joined(named: "LogprobsTensors", likeliest: "LogprobsTensors", rows: list[int]) -> "LogprobsTensors":
    """The first one's `rows` and the second one's others, [n_requests, the wider's width]."""
    from vllm.v1.outputs import LogprobsTensors

    width = max(named.logprobs.shape[1], likeliest.logprobs.shape[1])
    ids, logprobs = _wide(likeliest.logprob_token_ids, width, 0), _wide(likeliest.logprobs, width, float("-inf"))
    ids[rows] = _wide(named.logprob_token_ids, width, 0)[rows]
    logprobs[rows] = _wide(named.logprobs, width, float("-inf"))[rows]
    return LogprobsTensors(ids, logprobs, likeliest.selected_token_ranks)


def _wide(rows: "torch.Tensor", width: int, filling: float) -> "torch.Tensor":
    import torch

    return torch.nn.functional.pad(rows, (0, width - rows.shape[1]), value=filling)


PATCH = Patch(
    name="own_logprobs",
    changes="The sampler gathers named tokens for the rows that name some, and the likeliest for all others.",
    why="vLLM gathers one kind for all rows of a step.",
    without="A request with `logprob_token_ids` takes the log-probabilities of every other request in its step away.",
    gain="Not a matter of speed: answers are right.",
    goes_when="vLLM's sampler gathers both kinds in one step.",
    required=True,
    targets={
        "vllm.v1.sample.sampler:Sampler.forward": "586fe802add4",
        "vllm.v1.sample.sampler:Sampler.gather_specific_token_logprobs": "f4ad0a2dc083",
        "vllm.v1.sample.sampler:Sampler.gather_logprobs": "ca39ba3c4e61",
    },
    in_worker=give_each_its_own,
)
