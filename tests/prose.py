"""The rules of `.vale/styles/Stepserve`, held to docs, docstrings and messages without vale (a Go program).

`python -m tests.prose` prints what breaks a rule and ends with 1; `make lint` runs it. Of vale's kinds of rules it
knows `existence`, `substitution` and `occurrence`, of its scopes text and sentence.
"""

import ast
import re
import sys
from collections.abc import Iterator
from configparser import ConfigParser
from dataclasses import dataclass
from typing import Any, Literal

import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

from tests.documents import REPOSITORY, pages

STYLE = REPOSITORY / ".vale" / "styles" / "Stepserve"
PACKAGES = ("gateway", "control", "evals", "datagen", "stepserve", "ui", "demo", "reference")
_FEWEST_WORDS = 3
"""Shorter strings are keys, names and values, and nobody reads them as prose."""
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z`*\"(\[\d])")
_CODE = "X"
Kind = Literal["paragraph", "heading", "cell", "docstring", "message"]


@dataclass(frozen=True, slots=True)
class Text:
    """`place` is the file and the line."""

    place: str
    text: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Rule:
    name: str
    pattern: re.Pattern[str]
    message: str
    instead: dict[str, str]
    by_sentence: bool
    most: int | None
    """`occurrence`: how many matches a sentence may have; None: none."""
    in_docstrings: bool

    def applies_to(self, kind: Kind) -> bool:
        """Headings and cells are not whole sentences; `.vale.ini` says what is asked of Python's docstrings."""
        if kind == "docstring":
            return self.in_docstrings
        if self.most is not None:
            return kind == "paragraph"
        return kind in {"paragraph", "message"} if self.by_sentence else True

    def breaches(self, text: Text) -> Iterator[str]:
        if not self.applies_to(text.kind):
            return
        for part in _SENTENCE.split(text.text) if self.by_sentence else [text.text]:
            found = self.pattern.findall(part)
            if self.most is not None:
                if len(found) > self.most:
                    yield f"{text.place}: {self.message} {part[:80]!r}"
                continue
            for match in found:
                said = (self.instead[match.lower()], match) if self.instead else match
                yield f"{text.place}: {self.message % said}"


def rules() -> list[Rule]:
    settings = ConfigParser(strict=False, delimiters=("=",))
    settings.read_string("[vale]\n" + (REPOSITORY / ".vale.ini").read_text())
    of_python = settings["*.py"]
    return [
        _rule(file.stem, yaml.safe_load(file.read_text()), of_python.get(f"Stepserve.{file.stem}", "YES") == "YES")
        for file in sorted(STYLE.glob("*.yml"))
    ]


def _rule(name: str, said: dict[str, Any], in_docstrings: bool) -> Rule:
    kind = said["extends"]
    flags = re.IGNORECASE if said.get("ignorecase") else 0
    by_sentence = said.get("scope") == "sentence"
    if kind == "occurrence":
        return Rule(name, re.compile(said["token"]), said["message"], {}, by_sentence, said["max"], in_docstrings)
    if kind == "substitution":
        swap = {old.lower(): new for old, new in said["swap"].items()}
        words = "|".join(map(re.escape, sorted(swap, key=len, reverse=True)))
        return Rule(
            name, re.compile(rf"\b(?:{words})\b", flags), said["message"], swap, by_sentence, None, in_docstrings
        )
    if kind == "existence":
        tokens = "|".join(f"(?:{token})" for token in said["tokens"])
        pattern = tokens if said.get("nonword") else rf"\b(?:{tokens})\b"
        return Rule(name, re.compile(pattern, flags), said["message"], {}, by_sentence, None, in_docstrings)
    raise ValueError(f"{name}.yml extends {kind}, which is not one of existence, occurrence, substitution")


def texts() -> Iterator[Text]:
    for page in pages():
        yield from markdown(page.read_text(), str(page.relative_to(REPOSITORY)))
    for package in PACKAGES:
        for file in sorted((REPOSITORY / package).rglob("*.py")):
            yield from python(file.read_text(), str(file.relative_to(REPOSITORY)))


def markdown(source: str, name: str) -> Iterator[Text]:
    kind: Kind = "paragraph"
    line = 0
    for token in MarkdownIt("commonmark").enable("table").parse(source):
        if token.map is not None:
            line = token.map[0] + 1
        if token.type in {"td_open", "th_open"}:
            kind = "cell"
        elif token.type == "heading_open":
            kind = "heading"
        elif token.type in {"td_close", "th_close", "heading_close"}:
            kind = "paragraph"
        elif token.type == "inline":
            yield Text(f"{name}:{line}", "".join(map(_words, token.children or [])), kind)


def _words(token: Token) -> str:
    if token.type in {"softbreak", "hardbreak"}:
        return " "
    return _CODE if token.type == "code_inline" else token.content if token.type == "text" else ""


def python(source: str, name: str) -> Iterator[Text]:
    """Docstrings, and strings with enough words to be messages, formatted ones as a whole."""
    tree = ast.parse(source)
    docstrings = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    }
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else _CODE for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            text = node.value
        else:
            continue
        if id(node) in docstrings:
            yield Text(f"{name}:{node.lineno}", " ".join(text.split()), "docstring")
        elif len(text.split()) >= _FEWEST_WORDS:
            yield Text(f"{name}:{node.lineno}", text, "message")


def breaches() -> list[str]:
    known = rules()
    return [breach for text in texts() for rule in known for breach in rule.breaches(text)]


if __name__ == "__main__":
    found = breaches()
    print("\n".join(found))
    sys.exit(1 if found else 0)
