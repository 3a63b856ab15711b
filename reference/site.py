"""MkDocs hooks: the repository's Markdown as a site, without a second copy of anything.

README, CONTRIBUTING and CHANGELOG become pages, the decisions get a list, and a link to a file that is no page becomes
its name. A link to what is not there fails the build.
"""

import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).resolve().parents[1]
_DOCS = REPOSITORY / "docs"
_PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
_DECISIONS = "decisions/index.md"
_LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s#:]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for name, page in _PAGES.items():
        files.append(File.generated(config, page, content=(REPOSITORY / name).read_text()))
    files.append(File.generated(config, _DECISIONS, content=_decisions()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 - mkdocs gives all by name
    uri = page.file.src_uri
    return rewritten(markdown, next((name for name, page_uri in _PAGES.items() if page_uri == uri), f"docs/{uri}"))


def rewritten(markdown: str, source: str) -> str:
    """`source` is where the text lies in the repository. Raises PluginError for a link to a file that is not there."""
    here = Path(_uri(REPOSITORY / source) or ".").parent

    def link(found: re.Match[str]) -> str:
        text, target, anchor = found[1], found[2], found[3] or ""
        there = Path(os.path.normpath((REPOSITORY / source).parent / target))
        uri = _uri(there)
        if uri is not None:
            return f"[{text}]({os.path.relpath(uri, here)}{anchor})"
        if not there.exists():
            raise PluginError(f"{source} links to {target}, which is not there.")
        return text if there.name in text else f"{text} (`{there.relative_to(REPOSITORY)}`)"

    return _LINK.sub(link, markdown)


def _uri(file: Path) -> str | None:
    """The page, or the picture, that a file of the repository is on the site."""
    if file in {_DOCS / "decisions", _DOCS / _DECISIONS}:
        return _DECISIONS
    if file.is_file() and file.is_relative_to(_DOCS):
        return str(file.relative_to(_DOCS))
    return _PAGES.get(str(file.relative_to(REPOSITORY))) if file.is_relative_to(REPOSITORY) else None


def _decisions() -> str:
    found = sorted((_DOCS / "decisions").glob("[0-9]*.md"))
    titles = [file.read_text().partition("\n")[0].removeprefix("# ") for file in found]
    rows = (f"- [{title}]({file.name})\n" for title, file in zip(titles, found, strict=True))
    return "# Decisions\n\nWhat a reader would question, and why it is so.\n\n" + "".join(rows)
