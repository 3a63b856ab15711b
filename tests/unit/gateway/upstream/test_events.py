"""Streams of other hosts, however they are cut into pieces."""

import pytest

from gateway.access.meter import Meter
from gateway.upstream.events import EventScan, Garbage

CHAT = b'data: {"choices": [{"delta": {"content": "a"}}]}\n\ndata: {"choices": [{"delta": {"content": "b"}}]}\n\n'
DONE = b"data: [DONE]\n\n"
USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 9}}\n\n'
RESPONSES = (
    b"event: response.completed\n"
    b'data: {"type": "response.completed", "response": {"usage": {"input_tokens": 7, "output_tokens": 9}}}\n\n'
)
MESSAGES = (
    b"event: message_start\n"
    b'data: {"type": "message_start", "message": {"usage": {"input_tokens": 7, "output_tokens": 1}}}\n\n'
    b'event: message_delta\ndata: {"type": "message_delta", "usage": {"output_tokens": 9}}\n\n'
    b'event: message_stop\ndata: {"type": "message_stop"}\n\n'
)


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize(
    "stream", [CHAT + USAGE + DONE, RESPONSES, MESSAGES, (CHAT + USAGE + DONE).replace(b"\n", b"\r\n")]
)
def test_a_whole_stream_passes_and_is_counted(stream: bytes, size: int) -> None:
    meter = Meter()
    scan = EventScan(meter)
    passed = b"".join(scan.feed(stream[start : start + size]) for start in range(0, len(stream), size))
    assert scan.complete
    assert passed.rstrip() == stream.rstrip()
    assert (meter.prompt_tokens, meter.completion_tokens) == (7, 9)


def test_without_usage_the_pieces_are_counted() -> None:
    meter = Meter()
    EventScan(meter).feed(CHAT + DONE)
    assert meter.completion_tokens == 2


def test_what_follows_the_end_is_dropped() -> None:
    scan = EventScan(Meter())
    assert scan.feed(DONE + CHAT) == DONE
    assert scan.feed(CHAT) == b""


def test_half_a_line_is_never_passed_on() -> None:
    scan = EventScan(Meter())
    assert scan.feed(b'data: {"choi') == b""
    assert not scan.complete


@pytest.mark.parametrize(
    "stream", [b"<html>\n", b"data: {\n\n", b"data: [1]\n\n", b"data: \xff\n\n", b"\x00\n", b'{"a": 1}\n']
)
def test_garbage_is_told_from_events(stream: bytes) -> None:
    with pytest.raises(Garbage):
        EventScan(Meter()).feed(CHAT + stream)


def test_a_line_without_end_is_garbage() -> None:
    scan = EventScan(Meter())
    for _ in range(40):
        assert scan.feed(b"x" * 100_000) == b""
    with pytest.raises(Garbage):
        scan.feed(b"x" * 1_000_000)
