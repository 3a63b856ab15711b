"""Shards over HTTP as RFC 9110 has it, through the gateway: ranges, conditions, and nothing held in memory."""

import asyncio
import hashlib
import shutil
from pathlib import Path

import httpx
import psutil

from control.database.database import Database, url_of
from control.shards.book import ShardBook
from tests.integration.control_plane import settings_of
from tests.integration.full_stack import FullStack, run_story

JOB_ID = "data_gen_20251122_053000_k3f9"
TEXT = b'{"id": "a", "messages": []}\n' * 40
LARGE_BYTES = 160_000_000
MOST_HELD_BYTES = 64_000_000


async def publish(base: Path, content: bytes) -> str:
    """The path that serves it."""
    database = Database(url_of(settings_of(base)))
    try:
        book = ShardBook(database)
        entry = await book.allot(JOB_ID, 0, "train_shards_out", "2025-11-22", 0)
        (base / entry.path).parent.mkdir(parents=True, exist_ok=True)
        (base / entry.path).write_bytes(content)
        await book.stage(entry.name, rows=40, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
        await book.publish(entry.name)
    finally:
        await database.close()
    return f"/shards/{entry.name}"


async def asked(there: FullStack, path: str, **headers: str) -> httpx.Response:
    return await there.http.get(path, headers={name.replace("_", "-"): value for name, value in headers.items()})


def test_a_download_goes_on_where_it_was_cut_off_and_only_of_the_same_content(tmp_path: Path) -> None:
    tag, size = f'"{hashlib.sha256(TEXT).hexdigest()}"', len(TEXT)

    async def story(there: FullStack) -> None:
        path = await publish(tmp_path, TEXT)
        whole = await asked(there, path)
        assert (whole.status_code, whole.content, whole.headers["etag"]) == (200, TEXT, tag)
        assert whole.headers["accept-ranges"] == "bytes"
        for range_, start, end in (("bytes=100-", 100, size), ("bytes=0-9", 0, 10), ("bytes=-28", size - 28, size)):
            part = await asked(there, path, range=range_)
            assert (part.status_code, part.content) == (206, TEXT[start:end]), range_
            assert part.headers["content-range"] == f"bytes {start}-{end - 1}/{size}"
        beyond = await asked(there, path, range=f"bytes={size}-")
        assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{size}")
        assert (await asked(there, path, range="bytes=100-", if_range=tag)).status_code == 206
        other = await asked(there, path, range="bytes=100-", if_range='"of another file"')
        assert (other.status_code, other.content) == (200, TEXT)

        kept = tmp_path / "runs" / "data_gen" / JOB_ID / "shard_000.jsonl"
        kept.parent.mkdir(parents=True)
        shutil.copyfile(tmp_path / "train_shards_out" / path.rpartition("/")[2], kept)
        (tmp_path / "train_shards_out" / path.rpartition("/")[2]).unlink()
        rest = await asked(there, path, range="bytes=100-", if_range=tag)
        assert (rest.status_code, rest.content) == (206, TEXT[100:]), "of the copy that the run keeps"

    run_story(tmp_path, story)


def test_head_says_what_a_get_would_send(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        path = await publish(tmp_path, TEXT)
        parquet = path.removesuffix(".jsonl") + ".parquet"
        (tmp_path / "train_shards_out" / parquet.rpartition("/")[2]).write_bytes(b"PAR1...PAR1")
        for each, size in ((path, len(TEXT)), (parquet, 11)):
            answer = await there.http.head(each)
            assert (answer.status_code, answer.content) == (200, b""), each
            assert answer.headers["content-length"] == str(size)
            assert answer.headers["etag"] == (await asked(there, each)).headers["etag"]
            ranged = await there.http.head(each, headers={"range": "bytes=0-3"})
            assert (ranged.status_code, ranged.headers["content-length"]) == (200, str(size)), "ranges are a GET's"
        assert (await there.http.head("/shards/shard_2025-11-22_999.jsonl")).status_code == 404

    run_story(tmp_path, story)


def test_a_file_is_served_in_pieces(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        path = (await publish(tmp_path, TEXT)).removesuffix(".jsonl") + ".parquet"
        with (tmp_path / "train_shards_out" / path.rpartition("/")[2]).open("wb") as file:
            file.truncate(LARGE_BYTES)
        process = psutil.Process()
        before_bytes, most_bytes, received = process.memory_info().rss, 0, 0
        async with there.http.stream("GET", path) as answer:
            async for piece in answer.aiter_bytes(1 << 22):
                received += len(piece)
                most_bytes = max(most_bytes, process.memory_info().rss)
        assert received == LARGE_BYTES
        assert most_bytes - before_bytes < MOST_HELD_BYTES, "of gateway, control and client together"

    run_story(tmp_path, story)


def test_many_downloads_side_by_side_are_each_whole(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        path = await publish(tmp_path, TEXT)
        starts = range(0, len(TEXT), 17)
        parts = await asyncio.gather(
            *(asked(there, path, range=f"bytes={start}-{min(start + 16, len(TEXT) - 1)}") for start in starts)
        )
        assert b"".join(part.content for part in parts) == TEXT

    run_story(tmp_path, story)
