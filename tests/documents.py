"""What README and tutorial tell people to type, read out of their Markdown."""

import re
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

REPOSITORY = Path(__file__).resolve().parents[1]
README, TUTORIAL = REPOSITORY / "README.md", REPOSITORY / "docs" / "tutorial.md"
COMMANDS, OUTPUT = "bash", "text"
_ANYTHING = "…"


@dataclass(frozen=True, slots=True)
class Block:
    """`kind` is what stands behind the fence, empty for an indented block; `line` where it begins, from 1."""

    document: str
    line: int
    kind: str
    text: str
    output: str | None = None

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"

    def difference(self, said: str) -> str | None:
        """How what was said differs from the output that the document promises; None when it does not.

        In a promise `…` stands for anything within a line; a line of it alone stands for any lines.
        """
        if self.output is None:
            return None
        lines = [re.escape(line).replace(_ANYTHING, r"[^\n]*") + "\n" for line in self.output.splitlines()]
        alone = re.escape(_ANYTHING).replace(_ANYTHING, r"[^\n]*") + "\n"
        wanted = "".join(r"(?:[^\n]*\n)*" if line == alone else line for line in lines)
        return None if re.fullmatch(wanted, said) else f"{self} promises\n{self.output}but said\n{said}"


def blocks_of(document: Path) -> list[Block]:
    """Every block of code, in order. One of output belongs to the commands right before it."""
    found: list[Block] = []
    name = str(document.relative_to(REPOSITORY))
    previous = None
    for token in MarkdownIt("commonmark").parse(document.read_text()):
        if token.type in {"fence", "code_block"} and token.map is not None:
            block = Block(name, token.map[0] + 1, token.info.strip(), token.content)
            if block.kind == OUTPUT and previous is not None and previous.kind == COMMANDS:
                block = Block(name, previous.line, COMMANDS, previous.text, token.content)
                found.pop()
            found.append(block)
            previous = block
        else:
            previous = None
    return found
