"""A file that is replaced is the old one or the new one, never a part of either."""

import errno
import stat
from pathlib import Path

import pytest

from stepserve.durable import put_in_place, sync_open, sync_tree, write_whole, written_aside


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("durable", [True, False])
def test_the_new_content_takes_the_place_of_the_old_and_nothing_else_is_left(tmp_path: Path, durable: bool) -> None:
    file = tmp_path / "metrics.json"
    file.write_text("old, and longer than the new")
    write_whole(file, "2 × 3", durable=durable)
    assert file.read_bytes() == "2 × 3".encode()
    assert _names(tmp_path) == ["metrics.json"]


def test_readers_see_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text("old")
    with written_aside(file) as aside:
        aside.write_text("ne")
        assert file.read_text() == "old"
        aside.write_text("new")
    assert file.read_text() == "new"


def test_an_error_keeps_the_old_file_and_leaves_nothing_behind(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text("old")

    def write_half() -> None:
        with written_aside(file) as aside:
            aside.write_text("half of the n")
            raise OSError(errno.ENOSPC, "no space left on device")

    with pytest.raises(OSError, match="no space left"):
        write_half()
    assert file.read_text() == "old"
    assert _names(tmp_path) == ["keys.json"]


def test_what_an_earlier_writer_left_when_it_was_killed_is_written_over(tmp_path: Path) -> None:
    (tmp_path / ".keys.json.part").write_text("a torn file that is longer")
    write_whole(tmp_path / "keys.json", b"new")
    assert _names(tmp_path) == ["keys.json"]
    assert (tmp_path / "keys.json").read_bytes() == b"new"


def test_the_writer_chooses_the_mode_and_the_name_to_write_to(tmp_path: Path) -> None:
    chosen = tmp_path / ".keys.json.4711"
    with written_aside(tmp_path / "keys.json", aside=chosen) as aside:
        assert aside == chosen
        aside.touch(mode=0o600)
    assert stat.S_IMODE((tmp_path / "keys.json").stat().st_mode) == 0o600
    assert _names(tmp_path) == ["keys.json"]


def test_a_folder_takes_its_name_with_everything_in_it(tmp_path: Path) -> None:
    part = tmp_path / ".file-1.part"
    (part / "deep").mkdir(parents=True)
    with (part / "deep" / "content").open("wb") as file:
        file.write(b"abc")
        sync_open(file)
    sync_tree(part)
    put_in_place(part, tmp_path / "file-1")
    assert (tmp_path / "file-1" / "deep" / "content").read_bytes() == b"abc"
    assert _names(tmp_path) == ["file-1"]


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "gone" / "keys.json", "new")
