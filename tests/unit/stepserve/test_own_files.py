"""A write goes to a file of one name, and never through a link."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from stepserve.own_files import LinkedFile, is_own, open_own, remove_links


@pytest.mark.parametrize("link", [os.link, os.symlink, lambda _, place: os.mkfifo(place)])
def test_what_is_not_a_file_of_its_own_is_not_opened(link: Callable[[Path, Path], None], tmp_path: Path) -> None:
    outside, place = tmp_path / "outside", tmp_path / "place"
    outside.write_bytes(b"mine")
    link(outside, place)
    assert not is_own(place)
    with pytest.raises(LinkedFile, match="remove it"):
        open_own(place, os.O_WRONLY)
    assert outside.read_bytes() == b"mine"


def test_a_file_of_its_own_is_opened(tmp_path: Path) -> None:
    place = tmp_path / "place"
    with os.fdopen(open_own(place, os.O_RDWR | os.O_CREAT), "wb") as stream:
        stream.write(b"x")
    assert is_own(place)
    assert place.read_bytes() == b"x"
    assert not place.stat().st_mode & 0o111


def test_links_go_and_what_they_lead_to_stays(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    for each in (outside, folder / "inner"):
        each.mkdir(parents=True)
        (each / "kept").write_bytes(b"x")
    (folder / "hard").hardlink_to(outside / "kept")
    (folder / "inner" / "soft").symlink_to(outside)
    (folder / "around").symlink_to("around")
    remove_links(folder)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == [
        "folder", "folder/inner", "folder/inner/kept", "outside", "outside/kept"
    ]  # fmt: skip
