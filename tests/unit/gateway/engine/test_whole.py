"""Answers kept back in the engine are read as if they had come token by token, whatever else its steps compute."""

import random
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch warns of itself while vLLM imports it
    from vllm.sampling_params import RequestOutputKind, SamplingParams
    from vllm.v1.engine import EngineCoreEvent, EngineCoreEventType, EngineCoreOutput, FinishReason
    from vllm.v1.engine.logprobs import LogprobsProcessor
    from vllm.v1.outputs import LogprobsLists

    from gateway.engine.whole import Whole

VOCABULARY = 40


@dataclass
class Asked:
    """A request as vLLM's scheduler has it, and how long its answer is."""

    id: str
    sampling_params: SamplingParams
    tokens: int
    made: int = 0


@dataclass
class Read:
    """What vLLM's front end reads out of the outputs of one request."""

    asked: Asked
    token_ids: list[int] = field(default_factory=list)
    events: int = 0
    finish_reason: FinishReason | None = None

    def __post_init__(self) -> None:
        request: Any = SimpleNamespace(sampling_params=self.asked.sampling_params)
        self._logprobs = LogprobsProcessor.from_new_request(None, request)

    def take(self, output: EngineCoreOutput) -> None:
        assert self.finish_reason is None
        self.token_ids += output.new_token_ids
        self.events += len(output.events or ())
        self.finish_reason = output.finish_reason
        self._logprobs.update_from_output(output)

    @property
    def said(self) -> object:
        logprobs = self._logprobs.logprobs
        return self.token_ids, self.events, self.finish_reason, self._logprobs.cumulative_logprob, logprobs


def _params(rng: random.Random) -> SamplingParams:
    named = rng.random() < 0.15
    return SamplingParams(
        logprobs=None if named else rng.choice([None, None, 0, 1, 2, 3, 5, 20, -1]),
        logprob_token_ids=rng.sample(range(VOCABULARY), rng.randint(1, 7)) if named else None,
        output_kind=rng.choice([RequestOutputKind.FINAL_ONLY] * 4 + [RequestOutputKind.DELTA]),
        stop=rng.choice([None, None, None, ["x"]]),
    )


def _width(inside: list[Asked]) -> int | None:
    """Of the rows of a step, as vLLM's sampler makes them."""
    params = [asked.sampling_params for asked in inside]
    named = [len(each.logprob_token_ids) for each in params if each.logprob_token_ids]
    counts = [VOCABULARY if each.logprobs == -1 else each.logprobs for each in params if each.logprobs is not None]
    return max(named or counts) + 1 if named or counts else None


def _steps(rng: random.Random, requests: list[Asked]) -> Iterator[tuple[dict[str, Asked], list[EngineCoreOutput]]]:
    """The unfinished requests after each step, and what the scheduler has for the front end."""
    waiting, inside = list(requests), list[Asked]()
    while waiting or inside:
        while waiting and rng.random() < 0.4:
            inside.append(waiting.pop())
        outputs, width = [], _width(inside)
        rows = np.random.default_rng(rng.randrange(1 << 30))
        if width is not None:
            ids = rows.integers(0, VOCABULARY, (len(inside), width))
            values, ranks = rows.standard_normal((len(inside), width)), rows.integers(1, VOCABULARY, len(inside))
        for row, asked in enumerate(inside):
            if rng.random() < 0.1:
                continue  # preempted, or its turn has not come
            asked.made += 1
            last = asked.made == asked.tokens
            output = EngineCoreOutput(request_id=asked.id, new_token_ids=[rng.randrange(VOCABULARY)])
            if asked.sampling_params.num_logprobs is not None:
                output.new_logprobs = LogprobsLists(ids, values, ranks).slice_request(row, 1)
            if asked.made == 1:
                output.events = [EngineCoreEvent(EngineCoreEventType.QUEUED, 1.0)]
            if last:
                output.finish_reason = rng.choice(list(FinishReason))
            outputs.append(output)
        inside = [asked for asked in inside if asked.made < asked.tokens]
        yield {asked.id: asked for asked in [*waiting, *inside]}, outputs


@pytest.mark.parametrize("seed", range(60))
def test_it_is_read_as_if_each_token_had_come_by_itself(seed: int) -> None:
    rng = random.Random(seed)
    requests = [Asked(str(i), _params(rng), rng.choice([1, 2, 5, 64, 65, 150])) for i in range(rng.randint(1, 9))]
    plain, kept = ({asked.id: Read(asked) for asked in requests} for _ in range(2))
    whole, sent = Whole(), 0
    for unfinished, outputs in _steps(rng, requests):
        for output in outputs:
            plain[output.request_id].take(output)
        for output in whole.filtered(outputs, unfinished, 1.0):
            kept[output.request_id].take(output)
            sent += 1
    assert {name: read.said for name, read in kept.items()} == {name: read.said for name, read in plain.items()}
    assert sent <= sum(asked.tokens for asked in requests)


def test_widths_that_change_from_step_to_step_are_cut_to_the_requests_own() -> None:
    asked = Asked("a", SamplingParams(logprobs=1, output_kind=RequestOutputKind.FINAL_ONLY), 3)
    whole, sent = Whole(), list[EngineCoreOutput]()
    for number, width in enumerate([2, 6, 4]):
        row = LogprobsLists(np.arange(width)[None], np.zeros((1, width)), np.ones(1, dtype=int))
        output = EngineCoreOutput(request_id="a", new_token_ids=[number], new_logprobs=row)
        if number == 2:
            output.finish_reason = FinishReason.LENGTH
        sent += whole.filtered([output], {} if number == 2 else {"a": asked}, 1.0)
    assert [output.new_token_ids for output in sent] == [[0, 1, 2]], "one output"
    assert sent[0].new_logprobs is not None
    assert sent[0].new_logprobs.logprob_token_ids.tolist() == [[0, 1]] * 3


def test_parts_that_cannot_be_put_together_are_sent_as_they_are() -> None:
    asked = Asked("a", SamplingParams(logprobs=1, output_kind=RequestOutputKind.FINAL_ONLY), 2)
    odd: Any = LogprobsLists(np.empty(0), np.zeros((1, 4)), np.empty(0))
    whole = Whole()
    first = EngineCoreOutput(request_id="a", new_token_ids=[1], new_logprobs=odd)
    assert whole.filtered([first], {"a": asked}, 1.0) == []
    broken: Any = SimpleNamespace(logprobs=np.zeros((1, 4)), logprob_token_ids=np.zeros(1))
    last = EngineCoreOutput(request_id="a", new_token_ids=[2], new_logprobs=broken, finish_reason=FinishReason.STOP)
    assert [output.new_token_ids for output in whole.filtered([last], {}, 1.0)] == [[1], [2]]
