"""What the documentation tells people to type, read out of its Markdown.

A comment right before a block says what becomes of it:

- `<!-- run -->`: run on a server that the tests share, in order, those of one page in one shell.
- `<!-- run: local -->`: run without a server.
- `<!-- needs: gpu -->` (docker, cluster, root, network …): not run, since the tests have no such thing.
- `<!-- example: why -->`: not run, for that reason.

`<!-- setup` … `-->` before a block is run first and not shown. Every block of shell commands has one of the four.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

REPOSITORY = Path(__file__).resolve().parents[1]
DOCS = REPOSITORY / "docs"
README, TUTORIAL = REPOSITORY / "README.md", DOCS / "tutorial.md"
COMMANDS, OUTPUT = "bash", "text"
INTERPRETERS = {"python": "python -", "javascript": "node --input-type=module -"}
"""Languages that are run besides the shell's."""
RUN, RUN_LOCAL = "run", "run: local"
_ANYTHING = "…"
_COMMENT = re.compile(r"<!--\s*(.*?)\s*-->", re.DOTALL)
_MARK = re.compile(r"run|run: local|(needs|example): \S.*")


@dataclass(frozen=True, slots=True)
class Block:
    """`kind` is what stands behind the fence, empty for an indented block; `line` where it begins, from 1.

    `mark` says what becomes of it, None where nobody has said; `setup` is run before it.
    """

    document: str
    line: int
    kind: str
    text: str
    output: str | None = None
    mark: str | None = None
    setup: str = ""

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"

    @property
    def commands(self) -> str:
        """What a shell runs for it."""
        interpreter = INTERPRETERS.get(self.kind)
        return self.text if interpreter is None else f"{interpreter} <<'END_OF_BLOCK'\n{self.text}END_OF_BLOCK\n"

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


def pages() -> list[Path]:
    """Every page that people write; a decision is no instruction, and the reference is generated."""
    unwritten = ("decisions", "reference")
    written = [page for page in sorted(DOCS.rglob("*.md")) if page.relative_to(DOCS).parts[0] not in unwritten]
    return [README, REPOSITORY / "CONTRIBUTING.md", REPOSITORY / "SECURITY.md", *written]


def blocks_of(document: Path) -> list[Block]:
    """Every block of code, in order. One of output belongs to the commands right before it."""
    found: list[Block] = []
    name = str(document.relative_to(REPOSITORY))
    previous: Block | None = None
    mark: str | None = None
    setup = ""
    for token in MarkdownIt("commonmark").parse(document.read_text()):
        if token.type == "html_block":
            for comment in _COMMENT.findall(token.content):
                if comment.startswith("setup\n"):
                    setup = comment.removeprefix("setup\n") + "\n"
                elif _MARK.fullmatch(comment):
                    mark = comment
        elif token.type in {"fence", "code_block"} and token.map is not None:
            block = Block(name, token.map[0] + 1, token.info.strip(), token.content, None, mark, setup)
            if block.kind == OUTPUT and previous is not None and previous.kind in {COMMANDS, *INTERPRETERS}:
                found.pop()
                block = Block(
                    name, previous.line, previous.kind, previous.text, token.content, previous.mark, previous.setup
                )
            found.append(block)
            previous, mark, setup = block, None, ""
        else:
            previous, mark, setup = None, None, ""
    return found


def marked(mark: str) -> dict[Path, list[Block]]:
    """The blocks with this mark by page, without pages that have none."""
    found = {page: [block for block in blocks_of(page) if block.mark == mark] for page in pages()}
    return {page: blocks for page, blocks in found.items() if blocks}
