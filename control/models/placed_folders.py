"""Folders under models/ that the server put there itself (uploads, pulls, copies, the demo): the only ones it removes.

docs/decisions/0030-what-the-server-may-remove.md says why it goes this way.
"""

import asyncio
import errno
import logging
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Literal
from weakref import WeakValueDictionary

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from control.clock import Clock, utc_now
from control.database.database import Database
from control.database.tables import ModelRow, PlacedFolderRow
from control.errors import Conflict
from control.models.placed_files import Removal, left_alone, manifest_of, removal
from stepserve.durable import sync, sync_tree

log = logging.getLogger(__name__)

Origin = Literal["upload", "pull", "copy", "demo"]

PLACING = ".stepserve-placing"  # below models/: copies that are not whole yet
_FORMER_PLACING = ".switchyard-placing"  # its name before the project was called Stepserve


class PlacedFolders:
    """`models` is the models directory. What a folder has by the record is removed, and nothing else in it."""

    def __init__(self, models: Path, database: Database, clock: Clock = utc_now) -> None:
        self._models = models
        self._database = database
        self._clock = clock
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def held(self, folder: Path) -> AsyncIterator[None]:
        """Nobody else registers or removes what lies there meanwhile: what was found stays so."""
        place = await asyncio.to_thread(lambda: str(folder.parent.resolve() / folder.name))
        lock = self._locks.setdefault(place, asyncio.Lock())
        async with lock:
            yield

    async def place(self, staged: Path, target: Path, origin: Origin) -> None:
        """Makes the folder `staged` the folder `target`, at once. It is recorded before, so a kill forgets nothing.

        Raises Conflict when something is there already, OSError.
        """
        if await asyncio.to_thread(os.path.lexists, target):
            raise Conflict(f"{target} is there already, and no model is registered from it")
        await self._record(staged, target, origin)
        try:
            await asyncio.to_thread(staged.rename, target)
        except OSError as error:
            if error.errno in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
                raise Conflict(f"{target} is there already, and no model is registered from it") from error
            if error.errno != errno.EXDEV:
                raise
            aside = self.placing(target)
            try:
                await asyncio.to_thread(_copy_tree, staged, aside)
                await self._record(aside, target, origin)
                await asyncio.to_thread(aside.rename, target)
            finally:
                await asyncio.to_thread(shutil.rmtree, aside, ignore_errors=True)
        finally:
            with suppress(OSError):  # others are at work there
                await asyncio.to_thread((self._models / PLACING).rmdir)
        await asyncio.to_thread(sync, target.parent)

    def placing(self, target: Path) -> Path:
        """Where a copy that is to become `target` is made, whatever was left there gone. Blocks. Raises OSError."""
        aside = self._models / PLACING / target.name
        aside.parent.mkdir(exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        return aside

    async def planned(self, folder: Path) -> Removal:
        """What `remove` would do. Changes nothing."""
        return await self._removal(folder, really=False)

    async def remove(self, folder: Path) -> Removal:
        """Removes what the server put there and nobody has changed. For a holder of `held`."""
        done = await self._removal(folder, really=True)
        name = self._name(folder)
        if name is not None:
            async with self._database.transaction() as session:
                await session.execute(delete(PlacedFolderRow).where(PlacedFolderRow.name == name))
        if done.note is not None:
            log.warning("%s", done.note)
        return done

    async def mark_going(self, session: AsyncSession, folder: Path) -> None:
        """In the transaction in which its model is forgotten: after a kill the next start removes it."""
        name = self._name(folder)
        if name is not None:
            await session.execute(update(PlacedFolderRow).where(PlacedFolderRow.name == name).values(going=True))

    async def keep(self, folder: Path) -> None:
        """Takes `mark_going` back: another model lies there."""
        async with self._database.transaction() as session:
            named = PlacedFolderRow.name == self._name(folder)
            await session.execute(update(PlacedFolderRow).where(named).values(going=False))

    async def finish(self) -> None:
        """Removes what a killed process was removing, unless a model uses it again. Before anything is served."""
        async with self._database.transaction() as session:
            names = (await session.scalars(select(PlacedFolderRow.name).where(PlacedFolderRow.going))).all()
            used = [Path(path) for path in await session.scalars(select(ModelRow.path))]
        root = await asyncio.to_thread(self._models.resolve)
        for unfinished in (PLACING, _FORMER_PLACING):
            await asyncio.to_thread(shutil.rmtree, root / unfinished, ignore_errors=True)
        for folder in (root / name for name in names):
            if any(path.is_relative_to(folder) for path in used):
                await self.keep(folder)
            else:
                log.info("removing %s, as an earlier process had begun to", folder)
                await self.remove(folder)

    async def _removal(self, folder: Path, *, really: bool) -> Removal:
        name = self._name(folder)
        row = None
        if name is not None:
            async with self._database.transaction() as session:
                row = await session.get(PlacedFolderRow, name)
        if row is None:
            return left_alone(folder, "was not put there by the server")
        manifest = {path: (size_bytes, modified_ns) for path, size_bytes, modified_ns in row.files}
        return await asyncio.to_thread(removal, folder, manifest, really=really)

    async def _record(self, staged: Path, target: Path, origin: Origin) -> None:
        manifest = await asyncio.to_thread(manifest_of, staged)
        row = PlacedFolderRow(
            name=target.name,
            origin=origin,
            files=[[path, size_bytes, modified_ns] for path, (size_bytes, modified_ns) in manifest.items()],
            going=False,
            placed_at=self._clock(),
        )
        async with self._database.transaction() as session:
            await session.merge(row)

    def _name(self, folder: Path) -> str | None:
        """Of a folder right below models/; None for any other."""
        return folder.name if folder.parent == self._models.resolve() else None


def _copy_tree(source: Path, target: Path) -> None:
    """With the files' times, and on disk for good."""
    shutil.copytree(source, target, symlinks=True)
    sync_tree(target)
