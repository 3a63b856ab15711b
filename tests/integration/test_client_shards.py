"""`for shard in client.shards()`: each is used once, and one whose loop broke off comes again."""

import asyncio
import hashlib
from pathlib import Path

import pytest

from control.database.database import Database, url_of
from stepserve import Client
from stepserve.client.errors import BadShard
from tests.integration.control_plane import settings_of
from tests.integration.public_server import public_server
from tests.integration.test_shard_inbox import publish


async def test_shards_are_claimed_proven_and_acknowledged(tmp_path: Path) -> None:
    async with public_server(tmp_path) as there:
        database = Database(url_of(settings_of(tmp_path)))
        texts = [f'{{"id": "{n}"}}\n{{"id": "{n}b"}}\n' for n in range(3)]
        names = [await publish(database, tmp_path, "job", n, text) for n, text in enumerate(texts)]
        with Client(there.url) as client:
            await asyncio.to_thread(_use, client, names, tmp_path / "kept")
        await database.close()


def _use(client: Client, names: list[str], folder: Path) -> None:
    def break_off() -> None:
        for shard in client.shards():
            raise RuntimeError(shard.name)

    with pytest.raises(RuntimeError, match=names[0]):
        break_off()
    seen = {shard.name: [record["id"] for record in shard] for shard in client.shards(folder=folder)}
    assert seen == {name: [str(n), f"{n}b"] for n, name in enumerate(names)}
    assert {path.name for path in folder.iterdir()} == set(names)
    assert {shard.status for shard in client.list_shards()} == {"acknowledged"}
    assert list(client.shards()) == []


async def test_a_shard_that_does_not_match_its_checksum_is_given_back(tmp_path: Path) -> None:
    async with public_server(tmp_path) as there:
        database = Database(url_of(settings_of(tmp_path)))
        name = await publish(database, tmp_path, "job", 0)
        (tmp_path / "train_shards_out" / name).write_text('{"id": "x"}\n')
        with Client(there.url) as client:
            with pytest.raises(BadShard, match=f"{name} arrived with the sha256"):
                await asyncio.to_thread(list, client.shards())
            (shard,) = await asyncio.to_thread(client.list_shards)
            assert shard.status == "free"
            assert shard.sha256 == hashlib.sha256(b'{"id": "a"}\n').hexdigest()
        await database.close()
