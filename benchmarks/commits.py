"""Commits of this repository: their names and their files."""

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def git(*arguments: str) -> str:
    """What `git` prints, run in this repository. Raises CalledProcessError where it fails."""
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def working_tree() -> str:
    """The commit that is checked out, with a mark where files have changed; "unknown" outside a repository."""
    try:
        return git("describe", "--always", "--dirty")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


@contextlib.contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """The files of a commit, for as long as the block runs. Raises CalledProcessError for what is none."""
    with tempfile.TemporaryDirectory(prefix="stepserve-commit-") as folder:
        tree = Path(folder) / "tree"
        git("worktree", "add", "--detach", str(tree), commit)
        try:
            yield tree
        finally:
            git("worktree", "remove", "--force", str(tree))
