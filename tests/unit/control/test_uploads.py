"""Files that are sent at the same time, where the order of the requests matters."""

import asyncio
import hashlib
from pathlib import Path
from typing import Any

from control.checkpoints.digest_cache import DigestCache
from control.database.database import Database, database_url
from control.errors import Conflict
from control.models.placed_folders import PlacedFolders
from control.registration.uploads.request import ClosePiece, OpenPiece
from control.registration.uploads.uploads import Uploads

_SIZE_BYTES = 64 * 1024 * 1024  # its hash takes longer than to begin the file anew


async def test_a_file_is_not_begun_anew_while_what_came_is_proven(tmp_path: Path) -> None:
    """Whoever is let in then has the file alone; until then it is told that another request is sending it."""

    async def none_registered() -> list[Path]:
        return []

    async def sent(ticket: dict[str, Any], content: bytes) -> dict[str, Any]:
        await asyncio.to_thread(Path(ticket["path"]).write_bytes, content)
        return await uploads.close(ClosePiece(ticket=ticket["ticket"], written_bytes=len(content)))

    placed = PlacedFolders(tmp_path / "models", Database(database_url(tmp_path / "db.sqlite")))
    (tmp_path / "uploads").mkdir()
    uploads = Uploads(tmp_path / "uploads", placed, DigestCache(), none_registered)
    piece = OpenPiece(model_id="m", name="notes.json", content_length=_SIZE_BYTES)
    first, second = b"a" * _SIZE_BYTES, b"b" * _SIZE_BYTES
    sending = asyncio.create_task(sent(await uploads.open(piece), first))
    while True:
        try:
            ticket = await uploads.open(piece)
            break
        except Conflict:
            await asyncio.sleep(0)
    assert (await sending)["sha256"] == hashlib.sha256(first).hexdigest()
    assert (await sent(ticket, second))["sha256"] == hashlib.sha256(second).hexdigest()
