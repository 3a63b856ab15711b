"""Requests whose numbers are not finite end with an error, each by itself and with all of its answers."""

import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch warns of itself while vLLM imports it
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine import EngineCoreOutput, FinishReason
    from vllm.v1.engine.output_processor import RequestOutputCollector
    from vllm.v1.outputs import LogprobsLists, LogprobsTensors

    from gateway.engine.finite import NotFinite, is_finite
    from gateway.engine.patches.finite_answers import refuse_not_finite, rows_without_an_answer

NAN, INF = float("nan"), float("inf")


class Processor:
    """Of vLLM's OutputProcessor what is hooked into: requests by id, each child's parent, and what is processed."""

    def __init__(self, *names: str) -> None:
        self.queues = {name: RequestOutputCollector(RequestOutputKind.DELTA, name) for name in names}
        self.request_states: dict[str, Any] = {}
        for name in names:
            parent = name.partition("_")[2]
            self.request_states[name] = SimpleNamespace(
                queue=self.queues[name], parent_req=SimpleNamespace(request_id=parent) if parent else None
            )
        self.processed: list[str] = []
        self.aborted: list[str] = []

    def process_outputs(self, outputs: list[EngineCoreOutput], _at_s: float = 0.0) -> Any:
        self.processed += [each.request_id for each in outputs if each.request_id in self.request_states]
        return SimpleNamespace(reqs_to_abort=["stopped"])

    def abort_requests(self, ids: list[str], internal: bool) -> list[str]:
        assert internal
        gone = [name for name in self.request_states if name in ids or name.partition("_")[2] in ids]
        for name in gone:
            del self.request_states[name]
        self.aborted += gone
        return gone


def output(name: str, **fields: Any) -> EngineCoreOutput:
    return EngineCoreOutput(request_id=name, new_token_ids=[0], **fields)


def logprobs(*values: float) -> LogprobsLists:
    rows = np.array([values], dtype=np.float32)
    return LogprobsLists(np.zeros(rows.shape, dtype=np.int64), rows, np.zeros(1, dtype=np.int64))


def of_prompt(*values: float) -> LogprobsTensors:
    rows = torch.tensor([values])
    return LogprobsTensors(torch.zeros(rows.shape, dtype=torch.int64), rows, torch.zeros(1, dtype=torch.int64))


@pytest.mark.parametrize(
    ("fields", "finite"),
    [
        ({}, True),
        ({"num_nans_in_logits": 259}, False),
        ({"new_logprobs": logprobs(-0.1, -INF)}, True),
        ({"new_logprobs": logprobs(-0.1, NAN)}, False),
        ({"new_prompt_logprobs_tensors": of_prompt(-0.1, -2.0)}, True),
        ({"new_prompt_logprobs_tensors": of_prompt(NAN, -2.0)}, False),
        ({"pooling_output": torch.tensor([0.1, 0.2])}, True),
        ({"pooling_output": torch.tensor([0.1, INF])}, False),
    ],
)
def test_what_is_finite(fields: dict[str, Any], finite: bool) -> None:
    assert is_finite(output("a", **fields)) is finite


def test_rows_without_an_answer() -> None:
    """What a grammar forbids is -inf, and a row may hold nothing else but one token."""
    logits = torch.zeros(5, 259)
    logits[1, 3] = NAN
    logits[2, 3] = INF
    logits[3, 1:] = -INF
    logits[4, 0], logits[4, 1] = INF, -INF
    assert rows_without_an_answer(logits).tolist() == [0, 1, 1, 0, 1]


def test_one_request_is_refused_and_the_others_go_on() -> None:
    processor = Processor("good", "bad")
    refused: list[None] = []
    refuse_not_finite(processor, lambda: refused.append(None))
    done = processor.process_outputs([output("good"), output("bad", num_nans_in_logits=1)], 1.0)
    assert (processor.processed, done.reqs_to_abort, len(refused)) == (["good"], ["stopped", "bad"], 1)
    assert processor.queues["good"].get_nowait() is None
    with pytest.raises(NotFinite, match="not finite"):
        processor.queues["bad"].get_nowait()


def test_with_several_answers_none_goes_on() -> None:
    processor = Processor("0_many", "1_many", "other")
    refuse_not_finite(processor, lambda: None)
    bad = output("1_many", num_nans_in_logits=1, finish_reason=FinishReason.STOP)
    processor.process_outputs([output("0_many"), bad, output("other")])
    assert processor.aborted == ["0_many", "1_many"]
    assert processor.processed == ["other"]


def test_a_proof_is_told_what_there_is() -> None:
    processor = Processor("proof-0-abc", "alive-abc")
    refuse_not_finite(processor, lambda: pytest.fail("nobody's answer was refused"))
    outputs = [
        output("proof-0-abc", new_prompt_logprobs_tensors=of_prompt(NAN)),
        output("alive-abc", num_nans_in_logits=1),
    ]
    processor.process_outputs(outputs)
    assert processor.processed == ["proof-0-abc", "alive-abc"]
