"""What never gets to a disk."""

import pytest

from gateway.filtering.installed import FilterRefused
from gateway.filtering.patterns import patterns
from gateway.traffic.redactor import Redactor
from stepserve.traffic import TrafficSettings, Turn

SECRETS = (
    "jane.doe+x@mail.example.org", "sk-proj-abcdefghijklmnop1234", "4111 1111 1111 1111", "+49 (151) 234-56789",
    "DE89 3704 0044 0532 0130 00",
)  # fmt: skip


@pytest.mark.parametrize("secret", SECRETS)
def test_what_the_settings_take_for_personal_is_redacted_everywhere(secret: str) -> None:
    redactor = Redactor(TrafficSettings())
    assert redactor.prompt(f"I am {secret}, hello") == "I am [redacted], hello"
    turns = redactor.prompt([Turn(role="user", content=f"({secret})")])
    assert turns == [Turn(role="user", content="([redacted])")]
    assert redactor.answer(f"Hello {secret}") == "Hello [redacted]"


def test_numbers_and_words_stay() -> None:
    said = "What is 123456 + 654321? It is 777777, at 12:30 on 2026-01-31, see module.function@3."
    assert Redactor(TrafficSettings()).answer(said) == said


def test_own_patterns_stand_beside_the_built_in_ones_that_are_named() -> None:
    redactor = Redactor(TrafficSettings(redact=["phone", "(?i)project \\w+"], replacement="X"))
    assert redactor.prompt("Project Zebra, +49 151 23456789, jane@example.org") == "X, X, jane@example.org"
    assert Redactor(TrafficSettings(redact=[])).answer("jane@example.org") == "jane@example.org"


def test_a_request_is_kept_as_the_model_saw_it() -> None:
    filtered = patterns({"patterns": ["zebra"], "replacement": "horse"})
    redactor = Redactor(TrafficSettings(), [filtered])
    assert redactor.prompt("a zebra") == "a horse"
    assert redactor.answer("a zebra") == "a zebra", "answers went through the filters already"


@pytest.mark.parametrize(("pattern", "reason"), [("(", r"traffic\.redact.*\("), ("a*", "matches a text of no")])
def test_a_pattern_that_cannot_be_used_is_refused_at_start(pattern: str, reason: str) -> None:
    with pytest.raises(FilterRefused, match=reason):
        Redactor(TrafficSettings(redact=[pattern]))
