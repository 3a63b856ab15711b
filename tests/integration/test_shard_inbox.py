"""The inbox of shards, over HTTP and on both databases: each shard goes to one trainer at a time, and none is lost."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from control.clock import utc_now
from control.database.database import Database, url_of
from control.errors import Conflict
from control.shards.book import ShardBook
from control.shards.inbox import ShardInbox
from tests.integration.control_plane import ControlPlane, control_plane, settings_of

DAY = "2025-11-22"


async def publish(database: Database, base: Path, job_id: str, ordinal: int, text: str = '{"id": "a"}\n') -> str:
    book = ShardBook(database)
    entry = await book.allot(job_id, ordinal, "train_shards_out", DAY, 0)
    (base / entry.path).parent.mkdir(parents=True, exist_ok=True)
    (base / entry.path).write_text(text)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    await book.stage(entry.name, rows=text.count("\n"), size_bytes=len(text), sha256=sha256)
    await book.publish(entry.name)
    return entry.name


def with_database(base: Path, test: Callable[[Database], Awaitable[None]]) -> None:
    async def run() -> None:
        database = Database(url_of(settings_of(base)))
        try:
            await database.migrate()
            await test(database)
        finally:
            await database.close()

    asyncio.run(run())


@pytest.mark.usefixtures("each_database")
def test_numbers_are_given_once_whoever_asks(tmp_path: Path) -> None:
    async def test(database: Database) -> None:
        book = ShardBook(database)
        asked = [book.allot(f"job{n % 3}", n // 3, "train_shards_out", DAY, 0) for n in range(30)]
        entries = await asyncio.gather(*asked, *(book.allot("job0", n, "train_shards_out", DAY, 0) for n in range(5)))
        assert len({entry.name for entry in entries}) == 30
        assert sorted({entry.name for entry in entries}) == [f"shard_{DAY}_{n:03d}.jsonl" for n in range(30)]
        above = await book.allot("job9", 0, "elsewhere", DAY, 1200)
        assert above.name == f"shard_{DAY}_1200.jsonl"

    with_database(tmp_path, test)


@pytest.mark.usefixtures("each_database")
def test_of_many_claimers_each_gets_another_shard(tmp_path: Path) -> None:
    async def test(database: Database) -> None:
        names = [await publish(database, tmp_path, "job", n) for n in range(6)]
        inbox = ShardInbox(database)
        rows = await asyncio.gather(*(inbox.claim(f"trainer{n}", 60.0) for n in range(9)))
        assert sorted(row.name for row in rows if row is not None) == names
        assert len({row.claim_id for row in rows if row is not None}) == 6

    with_database(tmp_path, test)


@pytest.mark.usefixtures("each_database")
def test_64_trainers_at_once_take_every_shard_once(tmp_path: Path) -> None:
    async def test(database: Database) -> None:
        names = [await publish(database, tmp_path, "job", n) for n in range(160)]
        inbox = ShardInbox(database)
        taken: list[str] = []

        async def train(trainer: int) -> None:
            while (row := await inbox.claim(f"trainer{trainer}", 600.0)) is not None:
                taken.append(row.name)
                await inbox.acknowledge(row.name, str(row.claim_id))

        await asyncio.gather(*(train(n) for n in range(64)))
        assert sorted(taken) == names
        assert len(await inbox.published("acknowledged", "job", 1000)) == len(names)

    with_database(tmp_path, test)


@pytest.mark.usefixtures("each_database")
def test_a_claim_that_is_not_acknowledged_in_time_is_free_again(tmp_path: Path) -> None:
    moment = [utc_now()]

    def clock() -> datetime:
        return moment[0]

    async def test(database: Database) -> None:
        name = await publish(database, tmp_path, "job", 0)
        inbox = ShardInbox(database, clock)
        first = await inbox.claim("slow", 60.0)
        assert first is not None
        assert await inbox.claim("quick", 60.0) is None
        moment[0] += timedelta(seconds=61)
        second = await inbox.claim("quick", 60.0)
        assert second is not None
        assert second.name == name
        with pytest.raises(Conflict, match="not the present claim"):
            await inbox.acknowledge(name, str(first.claim_id))
        await inbox.acknowledge(name, str(second.claim_id))
        moment[0] += timedelta(days=365)
        assert await inbox.claim("anyone", 60.0) is None

    with_database(tmp_path, test)


async def test_the_inbox_over_http(tmp_path: Path) -> None:
    async def test(here: ControlPlane) -> None:
        database = Database(url_of(settings_of(tmp_path)))
        try:
            name = await publish(database, tmp_path, "job", 0, "0123456789\n")
        finally:
            await database.close()
        assert [shard["status"] for shard in (await here.get("/shards"))["shards"]] == ["free"]
        claim = (await here.post("/shards/claim", claimed_by="box", timeout_s=60))["shard"]
        assert (claim["name"], claim["rows"], claim["claimed_by"]) == (name, 1, "box")
        assert (await here.post("/shards/claim"))["shard"] is None
        body = (await here.http.get(claim["url"])).content
        assert hashlib.sha256(body).hexdigest() == claim["sha256"]
        part = await here.http.get(claim["url"], headers={"Range": "bytes=4-6"})
        assert (part.status_code, part.content) == (206, b"456")
        columns = claim["url"].removesuffix(".jsonl") + ".parquet"
        missing = await here.http.get(columns)
        assert (missing.status_code, "made without `parquet`" in missing.json()["detail"]) == (404, True)
        (tmp_path / claim["path"]).with_suffix(".parquet").write_bytes(b"PAR1...PAR1")
        part = await here.http.get(columns, headers={"Range": "bytes=-4"})
        assert (part.status_code, part.content) == (206, b"PAR1")

        assert "claim_id" in await here.refused(409, f"/shards/{name}/ack", claim_id="0")
        returned = await here.post(f"/shards/{name}/nack", claim_id=claim["claim_id"], reason="no room")
        assert (returned["status"], returned["refusal"]) == ("free", "no room")
        again = (await here.post("/shards/claim"))["shard"]
        for _ in range(2):
            done = await here.post(f"/shards/{name}/ack", claim_id=again["claim_id"])
            assert (done["status"], done["claims"]) == ("acknowledged", 2)
        await here.refused(409, f"/shards/{name}/nack", claim_id=again["claim_id"])
        await here.refused(404, "/shards/shard_2025-11-22_999.jsonl/ack", claim_id="0")
        assert "claimedby: unknown field" in await here.refused(422, "/shards/claim", claimedby="x")

    async with control_plane(tmp_path) as here:
        await test(here)
