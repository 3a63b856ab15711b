"""What a run of tests says at its end: of tests it did not come to, and of those that passed only when run again."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import UNTIL_VARIABLE

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("left_s", "outcome"), [(-1.0, "2 skipped"), (240.0, "1 passed, 1 skipped")])
def test_what_has_not_begun_in_time_is_skipped(tmp_path: Path, left_s: float, outcome: str) -> None:
    said = run(
        tmp_path,
        f"""
        import os

        def test_one(): os.environ["{UNTIL_VARIABLE}"] = "0"

        def test_two(): raise AssertionError("it has begun")
        """,
        **{UNTIL_VARIABLE: str(time.time() + left_s)},
    )
    assert outcome in said
    assert f"the time for this run of tests is over ({UNTIL_VARIABLE})" in said


@pytest.mark.parametrize("workers", ["0", "1"])
def test_what_passes_when_run_again_is_named(tmp_path: Path, workers: str) -> None:
    said = run(
        tmp_path,
        """
        from pathlib import Path

        tries = Path(__file__).with_name("tries")

        def test_of_one_mood():
            pass

        def test_of_two_moods():
            tries.touch()
            with tries.open("a") as file:
                file.write("x")
            assert tries.read_text() == "xx", "the first try"

        def test_that_fails():
            raise AssertionError("each time")

        left = Path(__file__).with_name("left")

        def test_that_leaves_something():
            left.mkdir()
            raise AssertionError("the cause")
        """,
        "--reruns=1",
        f"-n{workers}",
    )
    assert "2 failed, 2 passed, 3 rerun" in said
    end = said.splitlines()
    assert [line for line in end if line.startswith("flaky: ")] == [
        "flaky: test_it.py::test_of_two_moods: AssertionError: the first try assert 'x' == 'xx' - xx + x"
    ]
    assert [line for line in end if line.startswith("at first: ")] == [
        "at first: test_it.py::test_that_leaves_something: AssertionError: the cause"
    ]


def run(folder: Path, tests: str, *options: str, **environment: str) -> str:
    """What pytest says of these tests, with the hooks of ours."""
    lines = tests.splitlines()
    (folder / "test_it.py").write_text("\n".join(line.removeprefix(" " * 8) for line in lines) + "\n")
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-ra", "-p", "tests.conftest", "-p", "no:cacheprovider", *options],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)} | environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return ended.stdout + ended.stderr
