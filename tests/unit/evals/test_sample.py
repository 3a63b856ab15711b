import json
from typing import Any

import pytest

from evals.formats import parse_sample
from evals.sample import BrokenLine


def _parse(fields: Any) -> Any:
    return parse_sample(json.dumps(fields).encode(), line=3, index=1)


def test_question_and_answer() -> None:
    sample = _parse({"question": "2+2?", "answer": "4"})
    assert (sample.format, sample.input, sample.target) == ("question_answer", "2+2?", "4")
    assert (sample.id, sample.index) == ("3", 1)


def test_prompt_and_answer() -> None:
    sample = _parse({"prompt": "2+2=", "answer": "4"})
    assert (sample.format, sample.input, sample.target) == ("prompt_answer", "2+2=", "4")


def test_messages_give_their_last_turn_as_reference() -> None:
    asked = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "2+2?", "name": "Ann"}]
    sample = _parse({"messages": [*asked, {"role": "assistant", "content": "4"}]})
    assert (sample.format, sample.input, sample.target) == ("messages", asked, "4")


def test_messages_with_an_answer_stay_whole() -> None:
    asked = [{"role": "user", "content": "2+2?"}]
    sample = _parse({"messages": asked, "answer": 4})
    assert (sample.input, sample.target) == (asked, "4")


@pytest.mark.parametrize(("answer", "text"), [(42, "42"), (-1, "-1"), (4.5, "4.5"), ("x", "x"), (" x ", " x ")])
def test_answers_become_text(answer: Any, text: str) -> None:
    assert _parse({"question": "q", "answer": answer}).target == text


@pytest.mark.parametrize(("id_", "text"), [(7, "7"), ("gsm-7", "gsm-7")])
def test_ids_become_text(id_: Any, text: str) -> None:
    assert _parse({"id": id_, "question": "q", "answer": "a"}).id == text


def test_other_keys_are_metadata() -> None:
    sample = _parse({"question": "q", "answer": "a", "level": 3, "topic": None})
    assert sample.metadata == {"level": 3, "topic": None}


USER = {"role": "user", "content": "q"}
ASSISTANT = {"role": "assistant", "content": "a"}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"question": 4, "answer": "a"}, "'question' must be text, not a number"),
        ({"question": None, "answer": "a"}, "'question' must be text, not null"),
        ({"question": " ", "answer": "a"}, "'question' is blank"),
        ({"question": "q"}, "'answer' is missing to be question_answer"),
        ({"question": "q", "answer": ""}, "'answer' is blank"),
        ({"question": "q", "answer": True}, "'answer' must be text, not a truth value"),
        ({"question": "q", "answer": None}, "'answer' must be text, not null"),
        ({"question": "q", "answer": ["a"]}, "'answer' must be text, not a list"),
        (
            {"question": "q", "prompt": "p", "answer": "a"},
            "ambiguous: its keys are those of question_answer (answer, question) and prompt",
        ),
        ({"input": "q", "output": "a"}, "'instruction' is missing to be alpaca"),
        ({"q": "q", "a": "a"}, 'its keys {"q", "a"} are those of no known format'),
        ({"id": None, "question": "q", "answer": "a"}, "'id' must be text, not null"),
        ({"id": 1.5, "question": "q", "answer": "a"}, "'id' must be text, not a number"),
        ({"id": "i" * 257, "question": "q", "answer": "a"}, "'id' is longer than 256"),
        ({"messages": []}, "'messages' must be a list with at least one"),
        ({"messages": "q"}, "'messages' must be a list with at least one"),
        ({"messages": [USER, "a"]}, "message 2 must be an object with a 'role'"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}, ASSISTANT]}, "message 1 must have text"),
        ({"messages": [USER]}, "has no 'answer' and does not end with an assistant's message"),
        ({"messages": [ASSISTANT]}, "nothing comes before"),
        ({"messages": [USER, ASSISTANT], "answer": "b"}, "ambiguous: it has an 'answer' and also ends"),
        ([1], "not a JSON object but a list"),
        ("text", "not a JSON object but text"),
    ],
)
def test_refused(fields: Any, reason: str) -> None:
    with pytest.raises(BrokenLine) as caught:
        _parse(fields)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b'{"question": "q", "answer": "a"', "broken JSON"),
        (b'{"question": "caf\xe9", "answer": "a"}', "not UTF-8 (byte 18 of the line)"),
        (b'{"question": "q", "answer": NaN}', "broken JSON: NaN is not JSON"),
        (b'{"question": "q", "answer": 1e999}', "a number too large"),
        (b'{"question": "q", "answer": ' + b"9" * 5000 + b"}", "broken JSON"),
        (b'{"question": "\\ud83d", "answer": "a"}', "half of a surrogate pair"),
        (b"[" * 100_000, "broken JSON"),
    ],
)
def test_raw_bytes_refused(raw: bytes, reason: str) -> None:
    with pytest.raises(BrokenLine) as caught:
        parse_sample(raw, line=1, index=0)
    assert reason in str(caught.value)


def test_a_whole_surrogate_pair_is_text() -> None:
    assert parse_sample(b'{"question": "\\ud83d\\ude00", "answer": "a"}', line=1, index=0).input == "\U0001f600"
