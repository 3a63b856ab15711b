"""Judges that are hostile: real sockets, and what an eval keeps of what they say."""

import asyncio
import gzip
import resource

import pytest

from evals.formats import parse_sample
from evals.judge import AllowedJudges, JudgeSpec, judge_by_url
from evals.record import MetricScore, record_of
from stepserve.contract import BatchOutput
from tests.integration.raw_server import raw_server, reply, speaking

SECRET = "what only this machine may read"
CONTENT = b'{"choices": [{"message": {"content": "%s"}}]}'
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n"


async def graded(url: str, timeout_s: float = 60.0, max_reply_bytes: int = 1_000_000) -> MetricScore:
    sample = parse_sample(b'{"input": "Capital of France?", "ideal": "Paris"}', line=1, index=0)
    record = record_of(sample, BatchOutput(text="Paris", finish_reason="stop"), "sha256:aa")
    spec = JudgeSpec(model="big", url=url)
    async with judge_by_url(spec, AllowedJudges([url]), timeout_s, max_reply_bytes) as judge:
        return await judge.grade(record, "Paris")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (reply(SECRET.encode(), "401 Unauthorized"), "answered 401"),
        (reply(SECRET.encode(), "404 " + SECRET), "answered 404"),
        (reply(SECRET.encode()), "no chat completion"),
        (reply(b'{"choices": [{"message": {"content": {"a": "' + SECRET.encode() + b'"}}}]}'), "no chat completion"),
        (reply(b"[" * 100_000), "no chat completion"),
        (reply(CONTENT % b"CORRECT" * 100_000), "longer than 1000000 bytes"),
        (b"SSH-2.0-" + SECRET.encode() + b"\r\n", "not HTTP"),
    ],
)
def test_nothing_of_what_a_judge_says_is_kept_but_the_verdict(answer: bytes, said: str) -> None:
    """A judge's URL must not be a way to read what this machine can reach and the client cannot."""
    with raw_server(lambda _, __: answer) as (url, _):
        score = asyncio.run(graded(url))
    assert (score.value, score.parsed) == (0.0, False)
    assert score.error is not None
    assert said in score.error
    assert SECRET not in score.model_dump_json()


@pytest.mark.parametrize("verdict", ["CORRECT", "INCORRECT", None])
def test_words_beside_the_verdict_are_not_kept(verdict: str | None) -> None:
    with raw_server(lambda _, __: reply(CONTENT % f"{SECRET} {verdict}".encode())) as (url, _):
        score = asyncio.run(graded(url))
    assert (score.correct, score.parsed) == (verdict == "CORRECT", verdict is not None)
    assert SECRET not in score.model_dump_json()


def test_a_judge_on_this_machine_by_its_name() -> None:
    """`localhost` may be ::1 first, where nobody listens."""
    with raw_server(lambda _, __: reply(CONTENT % b"CORRECT")) as (url, _):
        assert asyncio.run(graded(url.replace("127.0.0.1", "localhost"))).correct is True


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"])
def test_no_redirect_is_followed(status: str) -> None:
    with raw_server(lambda _, __: reply(CONTENT % b"CORRECT")) as (inner, seen):
        with raw_server(lambda _, __: reply(b"", status, location=f"{inner}/chat/completions")) as (url, _):
            score = asyncio.run(graded(url))
        assert seen == []
    assert f"answered {status[:3]}" in str(score.error)


def test_a_small_answer_that_unpacks_to_400_megabytes() -> None:
    piece = gzip.compress(b" " * 2**20) * 400  # members of one gzip file
    answer = reply(piece, content_encoding="gzip")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with raw_server(lambda _, __: answer) as (url, _):
        score = asyncio.run(graded(url))
    assert "compressed" in str(score.error)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024  # KiB


def test_an_answer_without_end_is_cut_off() -> None:
    async def endless(_: str, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"\r\n")
        while True:
            writer.write(b" " * 65_536)
            await writer.drain()

    async def run() -> MetricScore:
        async with speaking(endless) as url:
            return await graded(f"{url}/v1")

    assert "longer than 1000000 bytes" in str(asyncio.run(run()).error)


def test_an_answer_of_a_byte_now_and_then_is_given_up() -> None:
    """No single read takes long, the whole would never end."""

    async def drip(_: str, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"\r\n")
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.01)

    async def run() -> MetricScore:
        async with speaking(drip) as url:
            return await graded(f"{url}/v1", timeout_s=0.3)

    assert "no whole answer within 0.3 s" in str(asyncio.run(run()).error)
