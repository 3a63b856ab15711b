import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import aclosing
from typing import Any

import pytest

from evals.prompts import Prompter
from evals.record import record_of
from evals.sample import Sample
from stepserve.contract import (
    AskItem,
    AskOutput,
    AskRequest,
    AskResult,
    BatchItem,
    BatchOutput,
    BatchRequest,
    BatchResult,
    BatchSampling,
)
from stepserve.jobs.batch_scheduler import BatchScheduler, asking, generating
from stepserve.jobs.errors import GatewayUnavailable, JobError, WrongWeights
from tests.unit.evals.adding_engine import MODEL, AddingEngine, HeldEngine

TIMEOUT_S = 240


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


Answered = list[tuple[Sample, BatchOutput]]


def _scheduler(
    engine: AddingEngine, chunk_items: int, window_items: int | Callable[[], int]
) -> BatchScheduler[Sample, BatchOutput]:
    generate = generating(engine, MODEL, BatchSampling(max_tokens=4))
    item_of = Prompter().item
    return BatchScheduler(
        lambda samples: generate([item_of(sample) for sample in samples]),
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
        async with aclosing(_scheduler(engine, chunk_items, window_items).stream(Source(1500))) as answers:
            async for answered in answers:
                seen += _ids(answered)
                for sample, output in answered:
                    assert output.reference_logprob is None or output.reference_logprob == -0.1 * (sample.index + 1)
        assert sorted(seen, key=int) == [str(index) for index in range(1500)]
        assert max(len(request.items) for request in engine.requests) <= min(chunk_items, window_items, 1024)
        assert {(r.model, r.digest, r.sampling.max_tokens) for r in engine.requests} == {(MODEL.id, MODEL.digest, 4)}

    _run(scenario())


def test_a_source_may_be_read_in_a_thread() -> None:
    async def scenario() -> None:
        readers: set[int] = set()

        def source() -> Iterator[Sample]:
            for index in range(40):
                readers.add(threading.get_ident())
                yield _sample(index)

        seen: list[str] = []
        async with aclosing(_scheduler(AddingEngine(), 4, 8).stream(source(), reads_in_thread=True)) as answers:
            async for answered in answers:
                seen += _ids(answered)
        assert sorted(seen, key=int) == [str(index) for index in range(40)]
        assert threading.get_ident() not in readers

    _run(scenario())


def test_no_samples_no_requests() -> None:
    async def scenario() -> None:
        engine = AddingEngine()
        assert [chunk async for chunk in _scheduler(engine, 4, 8).stream([])] == []
        assert engine.requests == []

    _run(scenario())


def test_the_window_is_kept_and_a_chunk_goes_out_as_soon_as_one_is_back() -> None:
    async def scenario() -> None:
        engine, source = HeldEngine(), Source(100)
        async with aclosing(_scheduler(engine, 2, 6).stream(source)) as answers:
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
        async with aclosing(_scheduler(engine, 4, 6).stream(source)) as answers:
            first = asyncio.ensure_future(anext(answers))
            await engine.arrivals(2)
            assert source.read == 6
            engine.release(1)
            assert _ids(await first) == ["4", "5"]
            await engine.arrivals(3)
            assert source.read == 8

    _run(scenario())


def test_a_window_may_change_while_it_is_used() -> None:
    async def scenario() -> None:
        engine, source = HeldEngine(), Source(100)
        window_items = 4
        scheduler = _scheduler(engine, 2, lambda: window_items)
        async with aclosing(scheduler.stream(source)) as answers:
            for number, (wide, asked) in enumerate([(8, 5), (4, 5), (2, 5), (6, 7)]):
                answered = asyncio.ensure_future(anext(answers))
                await engine.arrivals(number + 2)
                window_items = wide
                engine.release(number)
                await answered
                await engine.arrivals(asked)
                assert (scheduler.free_items, source.read) == (0, 2 * asked)

    _run(scenario())


def test_what_was_complete_is_yielded_before_an_error_and_the_rest_is_cancelled() -> None:
    async def scenario() -> None:
        engine, source = HeldEngine(), Source(100)
        async with aclosing(_scheduler(engine, 1, 4).stream(source)) as answers:
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
            async with aclosing(_scheduler(engine, 2, 4).stream(Source(100))) as answers:
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
            async with aclosing(_scheduler(engine, 1, 4).stream(broken())) as answers:
                await anext(answers)
        assert len(engine.cancelled) == engine.asked

    _run(scenario())


def test_answers_of_other_weights_are_refused() -> None:
    async def scenario() -> None:
        with pytest.raises(WrongWeights, match=r"sha256:aa.*sha256:bb"):
            await anext(_scheduler(AddingEngine(digest="sha256:bb"), 2, 4).stream(Source(3)))

    _run(scenario())


class PushedEngine(AddingEngine):
    async def generate(self, request: BatchRequest) -> BatchResult:
        return (await super().generate(request)).model_copy(update={"version": 3})


def test_answers_say_which_version_of_the_weights_gave_them() -> None:
    async def scenario() -> None:
        for engine, version in ((AddingEngine(), 0), (PushedEngine(), 3)):
            answered = await anext(_scheduler(engine, 2, 4).stream(Source(2)))
            assert [record_of(sample, output, "sha256:aa").model_version for sample, output in answered] == [
                version
            ] * 2

    _run(scenario())


class ShortEngine(AddingEngine):
    async def generate(self, request: BatchRequest) -> BatchResult:
        result = await super().generate(request)
        return result.model_copy(update={"outputs": result.outputs[1:]})


def test_an_answer_of_another_length_is_refused() -> None:
    async def scenario() -> None:
        with pytest.raises(JobError, match="answered 1 of 2 items"):
            await anext(_scheduler(ShortEngine(), 2, 4).stream(Source(3)))

    _run(scenario())


class Echo:
    """Answers whole requests with their body."""

    def __init__(self, digest: str = MODEL.digest) -> None:
        self._digest = digest

    async def ask(self, request: AskRequest) -> AskResult:
        outputs = [AskOutput(status=200, body=item.body) for item in request.items]
        return AskResult(model=request.model, digest=self._digest, outputs=outputs)

    async def generate(self, request: BatchRequest) -> BatchResult:
        raise AssertionError(request)


def test_whole_requests_are_checked_for_their_weights_too() -> None:
    items = [AskItem(path="/generate", body={"n": number}) for number in range(3)]
    answers = asyncio.run(_awaited(asking(Echo(), MODEL)(items)))
    assert [answer.body["n"] for answer in answers] == [0, 1, 2]
    with pytest.raises(WrongWeights):
        asyncio.run(_awaited(asking(Echo("sha256:bb"), MODEL)(items)))


async def _awaited(answers: Awaitable[Sequence[AskOutput]]) -> Sequence[AskOutput]:
    return await answers


def _item(total: int) -> BatchItem:
    return BatchItem(prompt=f"{total}+0")


def _asked(
    engine: AddingEngine, chunk_items: int, window_items: int, clock_s: Callable[[], float] = time.monotonic
) -> BatchScheduler[BatchItem, BatchOutput]:
    return BatchScheduler(
        generating(engine, MODEL), chunk_items=chunk_items, window_items=window_items, clock_s=clock_s
    )


@pytest.mark.parametrize(("chunk_items", "window_items"), [(4, 8), (4, 6), (8, 3), (1, 1), (64, 512)])
def test_every_caller_gets_its_own_answers_in_order(chunk_items: int, window_items: int) -> None:
    async def scenario() -> None:
        engine = AddingEngine()
        async with _asked(engine, chunk_items, window_items) as scheduler:
            totals = [[caller * 10 + place for place in (1, 2, 3)] for caller in range(20)]
            answers = await asyncio.gather(*(scheduler.ask([_item(total) for total in each]) for each in totals))
        said = [[output.prompt_tokens for output in each if output.error is None] for each in answers]
        assert said == [[len(f"{total}+0") for total in each if total % 13] for each in totals]
        assert max(len(request.items) for request in engine.requests) <= min(chunk_items, window_items)

    _run(scenario())


def test_callers_share_requests_and_the_window_is_kept() -> None:
    async def scenario() -> None:
        engine = HeldEngine()
        async with _asked(engine, 4, 8) as scheduler:
            callers = [asyncio.create_task(scheduler.ask([_item(number)])) for number in range(1, 13)]
            await engine.arrivals(2)
            assert (engine.asked, scheduler.free_items) == (2, 0)
            engine.release(0)
            await engine.arrivals(3)
            for number in (1, 2):
                engine.release(number)
            await asyncio.gather(*callers)
        assert [len(request.items) for request in engine.requests] == [4, 4, 4]

    _run(scenario())


def test_one_failed_request_fails_every_caller() -> None:
    async def scenario() -> None:
        engine = HeldEngine()
        async with _asked(engine, 1, 1) as scheduler:
            callers = [asyncio.create_task(scheduler.ask([_item(number)])) for number in range(1, 4)]
            await engine.arrivals(1)
            engine.fail(0, GatewayUnavailable("engine is restarting"))
            outcomes = await asyncio.gather(*callers, return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [GatewayUnavailable] * 3
            with pytest.raises(GatewayUnavailable):
                await scheduler.ask([_item(1)])
        assert engine.asked == 1

    _run(scenario())


def test_leaving_the_context_ends_requests_and_callers() -> None:
    async def scenario() -> None:
        engine = HeldEngine()
        async with _asked(engine, 1, 1) as scheduler:
            callers = [asyncio.create_task(scheduler.ask([_item(number)])) for number in range(1, 4)]
            await engine.arrivals(1)
        outcomes = await asyncio.gather(*callers, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [JobError] * 3
        assert engine.cancelled == [0]

    _run(scenario())


def test_busy_time_is_counted_once_however_many_requests_are_in_flight() -> None:
    async def scenario() -> None:
        engine, now_s = HeldEngine(), [100.0]
        async with _asked(engine, 1, 2, lambda: now_s[0]) as scheduler:
            first = asyncio.create_task(scheduler.ask([_item(1), _item(2)]))
            await engine.arrivals(2)
            now_s[0] += 3.0
            assert scheduler.busy_s == 3.0
            engine.release(0)
            engine.release(1)
            await first
            now_s[0] += 50.0
            assert scheduler.busy_s == 3.0
            second = asyncio.create_task(scheduler.ask([_item(3)]))
            await engine.arrivals(3)
            now_s[0] += 2.0
            engine.release(2)
            await second
            assert scheduler.busy_s == 5.0

    _run(scenario())
