"""docs/ as a site: it builds, every link and anchor of it leads somewhere, and nothing is fetched from elsewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from mkdocs.exceptions import PluginError

from reference.site import rewritten, tabbed
from tests.documents import REPOSITORY

_FETCHED = re.compile(r"""(?:src|<link[^>]+href)=["']?(https?:[^"'\s>]+)""")


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0, ended.stderr
    pages = [page.read_text() for page in (tmp_path / "site").rglob("*.html")]
    assert len(pages) > 40
    assert not [found for page in pages for found in _FETCHED.findall(page)]
    index = (tmp_path / "site" / "llms.txt").read_text()
    listed = re.findall(r"\]\(([^)]+)\)", index)
    assert len(listed) > 40
    assert [page for page in listed if not (tmp_path / "site" / page).is_file()] == []
    assert "tabbed-labels" in (tmp_path / "site" / "openai.html").read_text()


@pytest.mark.parametrize(
    ("source", "link", "becomes"),
    [
        ("README.md", "[a](docs/switching.md#the-proof)", "[a](switching.md#the-proof)"),
        ("README.md", "[a](docs/decisions)", "[a](decisions/README.md)"),
        ("docs/deploy.md", "[`deploy/`](../deploy)", "`deploy/`"),
        ("docs/tiers.md", "[an example](../config/hosts.json.example)", "an example (`config/hosts.json.example`)"),
        ("docs/decisions/0015-ids-that-move.md", "[a](../../README.md)", "[a](../index.md)"),
        ("docs/deploy.md", "[a](https://example.org/x)", "[a](https://example.org/x)"),
        ("docs/deploy.md", "[a](#disk)", "[a](#disk)"),
    ],
)
def test_a_link_leads_to_the_page_or_becomes_a_name(source: str, link: str, becomes: str) -> None:
    assert rewritten(link, source) == becomes


def test_a_link_to_what_is_not_there_fails_the_build() -> None:
    with pytest.raises(PluginError, match=r"docs/deploy\.md links to"):
        rewritten("[a](../nowhere.md)", "docs/deploy.md")


def test_examples_in_several_languages_become_tabs() -> None:
    examples = "<!-- run -->\n```bash\nx\n\ny\n```\n\n```text\n1\n```\n\n```python\nz\n```\n"
    page = f"a\n\n<!-- tabs -->\n{examples}<!-- /tabs -->\nb\n"
    assert tabbed(page) == (
        'a\n\n=== "curl"\n\n    ```bash\n    x\n\n    y\n    ```\n\n    ```text\n    1\n    ```\n\n'
        '=== "Python"\n\n    ```python\n    z\n    ```\n\nb\n'
    )
