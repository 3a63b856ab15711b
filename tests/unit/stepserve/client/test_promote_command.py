"""What `stepserve promote` refuses before any server is asked."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from stepserve.client.cli import app


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "A candidate and at least one --suite are needed."),
        (["a"], "A candidate and at least one --suite are needed."),
        (["a", "--suite", "{folder}/none.json"], "none.json cannot be read"),
        (["a", "--suite", "{folder}/text.json"], "text.json is not valid JSON"),
        (["a", "--suite", "{folder}/object.json"], "object.json is not a list of objects"),
        (["a", "--suite", "sums", "--guard", "tokens"], "--guard tokens: not GUARD=LIMIT"),
        (["a", "--suite", "sums", "--canary", "share"], "--canary share: not KEY=VALUE."),
        (["a", "--suite", "sums", "--test", "better"], "better"),
    ],
)
def test_refused(tmp_path: Path, arguments: list[str], reason: str) -> None:
    (tmp_path / "text.json").write_text("sums")
    (tmp_path / "object.json").write_text("{}")
    found = CliRunner().invoke(app, ["promote", *(text.format(folder=tmp_path) for text in arguments)])
    assert found.exit_code == 2
    assert reason in found.stderr
