"""Scores of large texts: computed beside the event loop, which all else of control needs."""

import asyncio

import pytest

from evals.record import SampleRecord
from evals.scoring import Scoring

LARGE = "word " * 60_000


def _record(number: int, text: str) -> SampleRecord:
    return SampleRecord(
        id=str(number), index=number, input="q", target=text, prediction=text, extracted=None, correct=False, score=0.0,
        finish_reason="stop", prompt_tokens=1, completion_tokens=1, latency_s=0.1, loss=None, reference_logprob=None,
        reference_tokens=0, model_digest="d", error=None,
    )  # fmt: skip


async def _turns(metrics: list[str], text: str) -> tuple[list[SampleRecord], int]:
    """The scored records, and how often others had their turn meanwhile."""
    async with Scoring(metrics) as scoring:
        task = asyncio.create_task(scoring.score([_record(number, text) for number in range(4)]))
        turns = 0
        while not task.done():
            turns += 1
            await asyncio.sleep(0)
        return await task, turns


@pytest.mark.parametrize("metrics", [["f1"], ["exact_match", "f1", "rouge_l"]])
def test_large_texts_hold_up_nobody(metrics: list[str]) -> None:
    scored, turns = asyncio.run(_turns(metrics, LARGE))
    assert [record.scores["f1"].value for record in scored] == [1.0] * 4
    assert turns > 20


def test_small_ones_cost_no_thread() -> None:
    scored, turns = asyncio.run(_turns(["f1"], "a word"))
    assert [record.scores["f1"].value for record in scored] == [1.0] * 4
    assert turns == 1
