"""The fifty first questions: ten of each role, each with a page and a heading that are there."""

import re
from pathlib import Path

from markdown_it import MarkdownIt

from tests.documents import DOCS

PAGE = DOCS / "questions.md"
ROLES = ("Trainer", "Operator", "App developer", "Contributor", "Evaluator")
_LINK = re.compile(r"\]\(([^)\s#]*)#([^)\s]+)\)")


def section(role: str) -> list[str]:
    """The rows of the role's table."""
    text = PAGE.read_text().split(f"\n## {role}\n")[1].split("\n## ")[0]
    return [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| question")]


def anchors(page: Path) -> set[str]:
    """Of every heading, as the site and GitHub make them."""
    tokens = MarkdownIt("commonmark").parse(page.read_text())
    titles = [tokens[i + 1].content for i, token in enumerate(tokens) if token.type == "heading_open"]
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).lower() for title in titles)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip()) for title in plain}


def test_each_role_asks_ten_questions() -> None:
    assert {role: len(section(role)) for role in ROLES} == dict.fromkeys(ROLES, 10)


def test_each_answer_is_a_heading_that_is_there() -> None:
    missing = []
    for role in ROLES:
        for row in section(role):
            links = _LINK.findall(row)
            assert links, f"no page with a heading: {row}"
            for name, anchor in links:
                page = (PAGE.parent / name).resolve() if name else PAGE
                if not page.is_file() or anchor not in anchors(page):
                    missing.append(f"{name}#{anchor}")
    assert missing == []
