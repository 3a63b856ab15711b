import pytest

from evals.formats import parse_sample
from evals.prompts import MOST_CHARACTERS, Prompter, PromptTooLong, UnknownField
from evals.sample import Sample
from stepserve.contract import MAX_STOP_TEXTS, ChatMessage


def _sample(raw: bytes) -> Sample:
    return parse_sample(raw, line=1, index=0)


def test_a_question_is_a_users_turn() -> None:
    item = Prompter().item(_sample(b'{"question": "2+2?", "answer": 4}'))
    assert item.model_dump(exclude_defaults=True) == {
        "messages": [{"role": "user", "content": "2+2?"}],
        "reference": "4",
    }


def test_the_system_prompt_comes_first() -> None:
    item = Prompter(system_prompt="Be short.").item(_sample(b'{"question": "2+2?", "answer": 4}'))
    assert item.messages is not None
    assert [(turn.role, turn.content) for turn in item.messages] == [("system", "Be short."), ("user", "2+2?")]


def test_a_prompt_stays_as_it_is() -> None:
    item = Prompter().item(_sample(b'{"prompt": "2+2= ", "answer": 4}'))
    assert item.model_dump(exclude_defaults=True) == {"prompt": "2+2= ", "reference": "4"}


def test_a_conversation_keeps_further_keys_and_loses_the_reference() -> None:
    raw = b'{"messages": [{"role": "user", "content": "2+2?", "name": "Ann"}, {"role": "assistant", "content": "4"}]}'
    item = Prompter().item(_sample(raw))
    assert item.model_dump(exclude_defaults=True) == {
        "messages": [{"role": "user", "content": "2+2?", "name": "Ann"}],
        "reference": "4",
    }


def test_no_format_has_more_stops_than_the_engine_takes() -> None:
    for raw in (
        b'{"prompt": "def f():", "test": "def check(f): f()", "entry_point": "f"}',
        b'{"question": "2+2?", "answer": 4}',
    ):
        assert 0 < len(Prompter(as_chat=False).stop(_sample(raw))) <= MAX_STOP_TEXTS


def test_a_template_takes_a_field_by_its_name_and_knows_no_other_syntax() -> None:
    sample = _sample(b'{"question": "2+2?", "answer": 4, "grade-level": 3}')
    assert Prompter(template="{{ grade-level }}: {{question}}").item(sample).messages == [
        ChatMessage(role="user", content="3: 2+2?")
    ]
    with pytest.raises(UnknownField, match=r"\{\{question.__class__\}\} is not a field"):
        Prompter(template="{{question.__class__}}").item(sample)


@pytest.mark.parametrize("as_chat", [True, False])
def test_a_prompt_is_bounded_before_it_is_made(as_chat: bool) -> None:
    """5,000 times a line of a megabyte would be five gigabytes."""
    long = _sample(b'{"question": "' + b"a" * 1_000_000 + b'", "answer": 4}')
    assert Prompter(template="{{question}}" * 8, as_chat=as_chat).item(long)
    with pytest.raises(PromptTooLong, match=str(MOST_CHARACTERS)):
        Prompter(template="{{question}}" * 5000, as_chat=as_chat).item(long)
    shots = [_sample(b'{"question": "' + b"a" * 1_000_000 + str(n).encode() + b'", "answer": 4}') for n in range(100)]
    with pytest.raises(PromptTooLong):
        Prompter(shots=shots, num_fewshot=100, as_chat=as_chat).item(long)
