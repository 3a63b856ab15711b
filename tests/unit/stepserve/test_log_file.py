import subprocess
import sys
from pathlib import Path

import pytest

from stepserve.log_file import LogFile


def everything(path: Path) -> list[str]:
    """All lines, the oldest file first."""
    files = sorted(path.parent.glob(f"{path.name}*"), key=lambda file: -int(file.suffix[1:] if file != path else 0))
    return [line for file in files for line in file.read_text().splitlines()]


def test_turned_over_by_size(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    file = LogFile(path, max_bytes=100, backups=2)
    for number in range(40):
        file.append(f"line {number:04d}\n".encode())
    assert sorted(each.name for each in tmp_path.glob("a.log*")) == ["a.log", "a.log.1", "a.log.2"]
    assert all(each.stat().st_size <= 100 for each in tmp_path.glob("a.log*"))
    lines = everything(path)
    assert lines == [f"line {number:04d}" for number in range(40 - len(lines), 40)]


def test_without_backups_the_old_is_gone(tmp_path: Path) -> None:
    file = LogFile(tmp_path / "a.log", max_bytes=30, backups=0)
    for _ in range(10):
        file.append(b"0123456789\n")
    assert [each.name for each in tmp_path.glob("a.log*")] == ["a.log"]
    assert (tmp_path / "a.log").stat().st_size <= 30


def test_several_processes_lose_and_tear_no_line(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    program = f"""
import sys
from pathlib import Path
from stepserve.log_file import LogFile
file = LogFile(Path({str(path)!r}), max_bytes=20_000, backups=50)
for number in range(1000):
    file.append(f"{{sys.argv[1]}} {{number}} {{'x' * 50}}\\n".encode())
"""
    writers = [subprocess.Popen([sys.executable, "-c", program, str(name)]) for name in range(3)]
    assert [writer.wait(240) for writer in writers] == [0, 0, 0]
    lines = everything(path)
    assert len(lines) == 3000
    assert {tuple(line.split()[:2]) for line in lines} == {(str(w), str(n)) for w in range(3) for n in range(1000)}


def test_a_file_that_somebody_moved_away_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    file = LogFile(path, max_bytes=1000, backups=1)
    file.append(b"one\n")
    path.rename(tmp_path / "moved")
    file.append(b"two\n")
    assert (path.read_text(), (tmp_path / "moved").read_text()) == ("two\n", "one\n")


@pytest.mark.parametrize("backups", [0, 1])
def test_what_others_hold_open_is_emptied_in_place(tmp_path: Path, backups: int) -> None:
    path = tmp_path / "gpu_worker.log"
    file = LogFile(path, max_bytes=50, backups=backups, raw_writers=True)
    with path.open("a") as engine:
        engine.write("e" * 60 + "\n")
        engine.flush()
        file.turn_over()
        engine.write("after\n")
        engine.flush()
        assert path.read_text() == "after\n"
    kept = path.with_name("gpu_worker.log.1")
    assert kept.exists() == bool(backups)
