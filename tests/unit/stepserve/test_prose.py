"""The rules for words: each finds its fault, leaves good English alone, and nothing here breaks one (`make lint`)."""

import pytest

from tests.prose import Kind, Text, breaches, markdown, python, rules

FAULTS: list[tuple[Kind, str, str]] = [
    ("message", "set.jsonl is no .jsonl file", "is not a …"),
    ("paragraph", "The log was turned over by size.", "rotated"),
    ("paragraph", "The device is Found Out by the script.", "detected"),
    ("paragraph", "What means nothing is refused.", "Begin with the subject"),
    ("message", "the governor has set it to 220 W", "glossary"),
    ("docstring", "Log files that were turned over.", "rotated"),
    ("paragraph", "word " * 51 + "end.", "two"),
]
FINE: list[tuple[Kind, str]] = [
    ("message", "there is no model step-1500"),
    ("paragraph", "It is no longer there."),
    ("paragraph", "What is 17+25?"),
    ("heading", "What is refused"),
    ("cell", "What the model has. " + "word " * 60),
    ("docstring", "What is no JSON is refused."),
]


def found(kind: Kind, text: str) -> list[str]:
    return [breach for rule in rules() for breach in rule.breaches(Text("a.md:1", text, kind))]


@pytest.mark.parametrize(("kind", "text", "said"), FAULTS)
def test_a_fault_is_named_with_its_place(kind: Kind, text: str, said: str) -> None:
    (breach,) = found(kind, text)
    assert breach.startswith("a.md:1: ")
    assert said in breach


@pytest.mark.parametrize(("kind", "text"), FINE)
def test_good_english_is_left_alone(kind: Kind, text: str) -> None:
    assert found(kind, text) == []


def test_code_is_not_read_and_cells_and_headings_are_told_apart() -> None:
    page = "# What is `no`\n\nA `door` and\nmore.\n\n| a |\n|---|\n| b |\n\n```\nturned over\n```\n"
    assert [(text.place, text.kind, text.text) for text in markdown(page, "a.md")] == [
        ("a.md:1", "heading", "What is X"),
        ("a.md:3", "paragraph", "A X and more."),
        ("a.md:6", "cell", "a"),
        ("a.md:8", "cell", "b"),
    ]


def test_messages_are_strings_of_some_words_and_formatted_ones_are_whole() -> None:
    source = '"""A module."""\nNAME = "key"\nraise ValueError(f"{name} is no {kind} file")\n'
    assert {(text.kind, text.text) for text in python(source, "a.py")} == {
        ("docstring", "A module."),
        ("message", "X is no X file"),
    }


def test_docs_and_messages_keep_to_the_rules() -> None:
    assert breaches() == []
