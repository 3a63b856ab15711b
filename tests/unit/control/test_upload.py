"""The book of an upload, which requests that end at the same time all write."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from control.registration.uploads.staged_file import Chunk
from control.registration.uploads.upload import Upload, load


def test_the_book_is_whole_however_many_write_it(tmp_path: Path) -> None:
    upload = Upload("m", tmp_path / "m", "me")
    upload.add("config.json", 10, [Chunk(0, 10, None)])

    def write(writer: int) -> None:
        for number in range(15):
            upload.add(f"{writer}-{number}", 0, [])
            again = load(upload.folder)
            assert again is not None
            assert f"{writer}-{number}" in again.files

    with ThreadPoolExecutor(4) as writers:
        list(writers.map(write, range(4)))


def test_what_is_discarded_is_not_written_again(tmp_path: Path) -> None:
    upload = Upload("m", tmp_path / "m", "me")
    upload.add("config.json", 10, [Chunk(0, 10, None)])
    upload.discard()
    upload.save()
    assert not upload.folder.exists()
