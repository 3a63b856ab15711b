"""A run of tests that has an end skips what has not begun by then, and says why."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import UNTIL_VARIABLE

REPOSITORY = Path(__file__).resolve().parents[2]
TESTS = f"""
import os

def test_one(): os.environ["{UNTIL_VARIABLE}"] = "0"

def test_two(): raise AssertionError("it has begun")
"""


@pytest.mark.parametrize(("left_s", "outcome"), [(-1.0, "2 skipped"), (240.0, "1 passed, 1 skipped")])
def test_what_has_not_begun_is_skipped(tmp_path: Path, left_s: float, outcome: str) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-ra",
            "-p",
            "tests.conftest",
            "-p",
            "no:cacheprovider",
            "--rootdir",
            tmp_path,
        ],
        cwd=tmp_path,
        env=os.environ | {UNTIL_VARIABLE: str(time.time() + left_s), "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert outcome in ended.stdout, ended.stdout + ended.stderr
    assert f"the time for this run of tests is over ({UNTIL_VARIABLE})" in ended.stdout
