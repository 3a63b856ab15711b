"""Server-sent events as the client reads them, however the bytes arrive."""

import json

import pytest

from stepserve.client.events import EventReader, chat_piece

SAID = "one\u2028two\x85three\x0cfour — five"


def chunk(text: str) -> bytes:
    """As vLLM writes it: characters as they are, whatever Unicode thinks of them."""
    return b"data: " + json.dumps({"choices": [{"delta": {"content": text}}]}, ensure_ascii=False).encode() + b"\n\n"


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_model_may_say_what_unicode_calls_the_end_of_a_line(size: int) -> None:
    stream = b": a comment\n\n" + chunk(SAID) + chunk("!") + b"data: [DONE]\n\n"
    reader = EventReader()
    pieces = [stream[start : start + size] for start in range(0, len(stream), size)]
    events = [event for piece in pieces for event in reader.feed(piece)]
    assert [name for name, _ in events] == ["", "", ""]
    assert [chat_piece(data) for _, data in events] == [SAID, "!", None]


def test_names_and_lines_of_an_event() -> None:
    assert list(EventReader().feed(b"event: state\r\ndata: a\r\ndata: b\r\n\r\n")) == [("state", "a\nb")]
