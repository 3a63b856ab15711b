import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import aclosing
from typing import Any

import pytest

from control.errors import GatewayUnavailable, JobError, WrongWeights
from evals.feed import Answered, Feed
from evals.prompts import Prompter
from evals.sample import Sample
from stepserve.contract import BatchRequest, BatchResult, BatchSampling
from tests.unit.evals.adding_engine import MODEL, AddingEngine, HeldEngine

TIMEOUT_S = 10


def _run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, TIMEOUT_S))


def _sample(index: int) -> Sample:
    return Sample(
        id=str(index), index=index, format="question_answer", input=f"{index}+1", target=str(index + 1), metadata={}
    )


class Source:
    """Samples that know how far they were read."""

    def __init__(self, count: int) -> None:
        self.read = 0
        self._count = count

    def __iter__(self) -> Iterator[Sample]:
        for index in range(self._count):
            self.read += 1
            yield _sample(index)


def _feed(engine: AddingEngine, chunk_items: int, window_items: int) -> Feed:
    return Feed(
        engine=engine,
        model=MODEL,
        sampling=BatchSampling(max_tokens=4),
        ask=Prompter().item,
        chunk_items=chunk_items,
        window_items=window_items,
    )


def _ids(answered: Answered) -> list[str]:
    return [sample.id for sample, _ in answered]


@pytest.mark.parametrize(("chunk_items", "window_items"), [(1, 1), (4, 8), (4, 6), (64, 512), (8, 3), (5000, 5000)])
def test_every_sample_is_answered_once_by_its_own_output(chunk_items: int, window_items: int) -> None:
    async def scenario() -> None:
        engine = AddingEngine()
        seen: list[str] = []
        async with aclosing(_feed(engine, chunk_items, window_items).answers(Source(1500))) as answers:
            async for answered in answers:
                seen += _ids(answered)
                for sample, output in answered:
                    assert output.reference_logprob is None or output.reference_logprob == -0.1 * (sample.index + 1)
        assert sorted(seen, key=int) == [str(index) for index in range(1500)]
        assert max(len(request.items) for request in engine.requests) <= min(chunk_items, window_items, 1024)
        assert {(r.model, r.digest, r.sampling.max_tokens) for r in engine.requests} == {(MODEL.id, MODEL.digest, 4)}

    _run(scenario())


def test_no_samples_no_requests() -> None:
    async def scenario() -> None:
        engine = AddingEngine()
        assert [chunk async for chunk in _feed(engine, 4, 8).answers([])] == []
        assert engine.requests == []

    _run(scenario())


def test_the_window_is_kept_and_a_chunk_goes_out_as_soon_as_one_is_back() -> None:
    async def scenario() -> None:
        engine, source = HeldEngine(), Source(100)
        async with aclosing(_feed(engine, 2, 6).answers(source)) as answers:
            first = asyncio.ensure_future(anext(answers))
            await engine.arrivals(3)
            assert (engine.asked, source.read) == (3, 6)

            engine.release(1)  # not the oldest: the others are still on their way
            assert _ids(await first) == ["2", "3"]
            await engine.arrivals(4)
            assert (engine.asked, source.read) == (4, 8)

            engine.release(3)
            assert _ids(await anext(answers)) == ["6", "7"]
            await engine.arrivals(5)
            assert (engine.asked, source.read) == (5, 10)
        assert sorted(engine.cancelled) == [0, 2, 4]

    _run(scenario())


def test_the_whole_window_is_used_when_chunks_do_not_divide_it() -> None:
    async def scenario() -> None:
        engine, source = HeldEngine(), Source(100)
        async with aclosing(_feed(engine, 4, 6).answers(source)) as answers:
            first = asyncio.ensure_future(anext(answers))
            await engine.arrivals(2)
            assert source.read == 6
            engine.release(1)
            assert _ids(await first) == ["4", "5"]
            await engine.arrivals(3)
            assert source.read == 8

    _run(scenario())


def test_what_was_complete_is_yielded_before_an_error_and_the_rest_is_cancelled() -> None:
    async def scenario() -> None:
        engine, source = HeldEngine(), Source(100)
        async with aclosing(_feed(engine, 1, 4).answers(source)) as answers:
            first = asyncio.ensure_future(anext(answers))
            await engine.arrivals(4)
            engine.fail(0, GatewayUnavailable("engine is restarting"))
            engine.release(1)
            engine.release(2)
            assert _ids(await first) == ["1"]
            assert _ids(await anext(answers)) == ["2"]
            with pytest.raises(GatewayUnavailable, match="restarting"):
                await anext(answers)
        assert engine.cancelled == [3]
        assert source.read == 4

    _run(scenario())


def test_cancelling_the_reader_cancels_what_is_in_flight() -> None:
    async def scenario() -> None:
        engine = HeldEngine()

        async def read() -> None:
            async with aclosing(_feed(engine, 2, 4).answers(Source(100))) as answers:
                async for _ in answers:
                    pass

        reader = asyncio.create_task(read())
        await engine.arrivals(2)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        assert sorted(engine.cancelled) == [0, 1]

    _run(scenario())


def test_an_error_of_the_source_is_raised_and_the_rest_cancelled() -> None:
    async def scenario() -> None:
        engine = HeldEngine()

        def broken() -> Iterator[Sample]:
            yield _sample(0)
            yield _sample(1)
            raise ValueError("line 3")

        with pytest.raises(ValueError, match="line 3"):
            async with aclosing(_feed(engine, 1, 4).answers(broken())) as answers:
                await anext(answers)
        assert len(engine.cancelled) == engine.asked

    _run(scenario())


def test_answers_of_other_weights_are_refused() -> None:
    async def scenario() -> None:
        with pytest.raises(WrongWeights, match=r"sha256:aa.*sha256:bb"):
            await anext(_feed(AddingEngine(digest="sha256:bb"), 2, 4).answers(Source(3)))

    _run(scenario())


class ShortEngine(AddingEngine):
    async def generate(self, request: BatchRequest) -> BatchResult:
        result = await super().generate(request)
        return result.model_copy(update={"outputs": result.outputs[1:]})


def test_an_answer_of_another_length_is_refused() -> None:
    async def scenario() -> None:
        with pytest.raises(JobError, match="answered 1 of 2 items"):
            await anext(_feed(ShortEngine(), 2, 4).answers(Source(3)))

    _run(scenario())
