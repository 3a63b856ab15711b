"""MkDocs hooks: the repository's Markdown as a site, without a second copy of anything.

README, CONTRIBUTING and CHANGELOG become pages, a link to a file that is not a page becomes its name, examples in
several languages become tabs, and llms.txt lists the pages for language models. A link to a missing file
fails the build.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).resolve().parents[1]
_DOCS = REPOSITORY / "docs"
_PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
_DECISIONS = "decisions/README.md"
_LLMS = "llms.txt"
_TABS = re.compile(r"<!-- tabs -->\n(.*?)<!-- /tabs -->\n", re.DOTALL)
_EXAMPLE = re.compile(
    r"(?:<!-- [^>]* -->\n)?(?=```(bash|python|javascript)\n)(```.*?\n```\n\n?(?:```text\n.*?\n```\n)?)",
    re.DOTALL,
)
_TITLES = {"bash": "curl", "python": "Python", "javascript": "JavaScript"}
_LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s#:]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for name, page in _PAGES.items():
        files.append(File.generated(config, page, content=(REPOSITORY / name).read_text()))
    files.append(File.generated(config, _LLMS, content=llms(config.nav or [], config.site_description or "")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 - mkdocs gives all by name
    uri = page.file.src_uri
    source = next((name for name, page_uri in _PAGES.items() if page_uri == uri), f"docs/{uri}")
    return tabbed(rewritten(markdown, source))


def tabbed(markdown: str) -> str:
    """Blocks between `<!-- tabs -->` and `<!-- /tabs -->` as tabs, each with the output below it."""
    return _TABS.sub(lambda found: "".join(map(_tab, _EXAMPLE.findall(found[1]))), markdown)


def _tab(example: tuple[str, str]) -> str:
    language, text = example
    inside = "\n".join(f"    {line}".rstrip() for line in text.strip().splitlines())
    return f'=== "{_TITLES[language]}"\n\n{inside}\n\n'


def llms(nav: list[Any], description: str) -> str:
    """https://llmstxt.org: title, summary, and the pages by section."""
    lines = ["# Stepserve", "", f"> {description}", ""]
    alone = [entry for entry in nav if isinstance(next(iter(entry.values())), str)]
    sections = [entry for entry in nav if entry not in alone]
    for title, pages in [("Start", alone), *(next(iter(section.items())) for section in sections)]:
        lines += [f"## {title}", "", *_links(pages), ""]
    return "\n".join(lines)


def _links(pages: list[Any]) -> Iterator[str]:
    for page in pages:
        title, target = next(iter(page.items()))
        if isinstance(target, list):
            yield from _links(target)
        else:
            yield f"- [{title}]({target.removesuffix('.md').replace('README', 'index')}.html)"


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
    if file == _DOCS / "decisions":
        return _DECISIONS
    if file.is_file() and file.is_relative_to(_DOCS):
        return str(file.relative_to(_DOCS))
    return _PAGES.get(str(file.relative_to(REPOSITORY))) if file.is_relative_to(REPOSITORY) else None
