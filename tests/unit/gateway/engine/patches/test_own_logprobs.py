"""Requests that name tokens beside requests that ask for the likeliest, in one step of vLLM's sampler."""

import warnings
from collections.abc import Iterator
from typing import Any

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch warns of itself while vLLM imports it
    import torch
    from vllm.v1.sample.logits_processor import LogitsProcessors
    from vllm.v1.sample.metadata import SamplingMetadata
    from vllm.v1.sample.sampler import Sampler

    from gateway.engine.patches.own_logprobs import give_each_its_own

LOGITS = torch.tensor([[0.0, 3.0, 1.0, 2.0], [4.0, 0.0, 1.0, 2.0], [0.0, 1.0, 2.0, 3.0]])


@pytest.fixture
def _each_its_own() -> Iterator[None]:
    before = Sampler.forward, Sampler.gather_specific_token_logprobs
    give_each_its_own()
    yield
    Sampler.forward, Sampler.gather_specific_token_logprobs = before


def rows(likeliest: int | None, named: dict[int, list[int]] | None) -> list[dict[int, float]]:
    """Of each request: what a step gives by token, its fillings left out."""
    nothing: Any = torch.empty(0)
    metadata = SamplingMetadata(
        temperature=None, all_greedy=True, all_random=False, top_p=None, top_k=None, generators={},
        max_num_logprobs=likeliest, no_penalties=True, prompt_token_ids=None, frequency_penalties=nothing,
        presence_penalties=nothing, repetition_penalties=nothing, output_token_ids=[[], [], []],
        allowed_token_ids_mask=None, bad_words_token_ids={}, logitsprocs=LogitsProcessors(), logprob_token_ids=named,
    )  # fmt: skip
    made = Sampler()(logits=LOGITS.clone(), sampling_metadata=metadata).logprobs_tensors
    assert made is not None
    pairs = zip(made.logprob_token_ids.tolist(), made.logprobs.tolist(), strict=True)
    return [
        {token: round(value, 4) for token, value in zip(*pair, strict=True) if value != float("-inf")} for pair in pairs
    ]


@pytest.mark.usefixtures("_each_its_own")
@pytest.mark.parametrize("named", [{1: [3]}, {1: [1, 2, 3]}, {0: [0], 1: [1, 3]}])
@pytest.mark.parametrize("likeliest", [0, 1, 2, 3])
def test_each_has_what_it_has_alone(likeliest: int, named: dict[int, list[int]]) -> None:
    by_name, by_count = rows(None, named), rows(likeliest, None)
    together = rows(likeliest, named)
    assert together == [by_name[row] if row in named else by_count[row] for row in range(3)]


@pytest.mark.usefixtures("_each_its_own")
def test_one_kind_alone_is_as_vllm_has_it() -> None:
    assert [sorted(row) for row in rows(1, None)] == [[1], [0], [3]]
    assert sorted(rows(None, {0: [2]})[0]) == [1, 2]
