"""Registration as a whole: from a folder under models/ or from an upload, and other content in place of what was there.

docs/decisions/0015-ids-that-move.md says why it goes this way.
"""

import asyncio
import fnmatch
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from control.activation import Activator, SwitchWish
from control.activation_log import ActivationLog
from control.checkpoint_layout import check_layout
from control.errors import Conflict, Invalid
from control.registration import RegisterRequest
from control.registry import Content, Registered, Registry
from control.repository import ModelRepository
from control.tables import ModelRow
from control.uploads.request import PICKLES
from control.uploads.upload import Upload
from control.uploads.uploads import Uploads
from switchyard.contract import ActivateResult
from switchyard.digest import is_content
from switchyard.paths import Layout

log = logging.getLogger(__name__)

_VERSION_MARK = "@"  # in no id, so a version's folder is nobody's inbox


@dataclass(frozen=True, slots=True)
class Registration:
    """`replaced` is the digest that had the id before; `activation` how the switch went when that one was active."""

    model: ModelRow
    existing: bool
    replaced: str | None = None
    activation: ActivateResult | None = None


class Registrar:
    """`moving_ids` are patterns of ids whose content changes by itself; others need the request's `replace`."""

    def __init__(
        self,
        layout: Layout,
        registry: Registry,
        models: ModelRepository,
        history: ActivationLog,
        activator: Activator,
        uploads: Uploads,
        moving_ids: list[str],
    ) -> None:
        self._layout = layout
        self._registry = registry
        self._models = models
        self._history = history
        self._activator = activator
        self._uploads = uploads
        self._moving_ids = moving_ids

    async def register(self, request: RegisterRequest) -> Registration:
        """Raises as Registry.register; Conflict also when the id's other content may not be replaced now."""
        if request.path is not None:
            return await self._register_folder(request)
        async with self._uploads.whole(request.id) as upload:
            if upload is None:
                return await self._register_folder(request)
            return await self._register_upload(request, upload)

    async def _register_folder(self, request: RegisterRequest) -> Registration:
        present = await self._models.find(request.id)
        moves = request.path is None and self._moves(request.id)
        if present is None and not moves:
            return _plain(await self._registry.register(request))
        folder = await asyncio.to_thread(self._registry.allowed, request)
        checkpoint = await self._registry.inspect(folder)
        if present is not None and present.digest == await self._registry.digest_for(request, checkpoint):
            return _plain(await self._registry.take_in(request, Path(present.path)))
        if present is not None:
            await self._check_replaceable(request, present)
        if moves or (present is not None and folder == Path(present.path)):
            folder = await asyncio.to_thread(self._copy, checkpoint, self._version(request.id, checkpoint.digest))
        return await self._take(request, present, folder)

    async def _register_upload(self, request: RegisterRequest, upload: Upload) -> Registration:
        await self._uploads.note_hashes(upload)
        await asyncio.to_thread(check_layout, upload.files_folder)
        checkpoint = await self._registry.inspect(upload.files_folder)
        present = await self._models.find(request.id)
        if present is not None and present.digest == await self._registry.digest_for(request, checkpoint):
            registered = await self._registry.take_in(request, Path(present.path))
            await self._uploads.drop(upload)
            return _plain(registered)
        if present is not None:
            await self._check_replaceable(request, present)
        if present is not None or self._moves(request.id):
            target = self._version(request.id, checkpoint.digest)
        else:
            target = self._layout.models / request.id
        if target.exists() and (await self._registry.inspect(target)).digest == checkpoint.digest:
            await self._uploads.drop(upload)  # placed by a try that was killed before it could register
        else:
            await self._uploads.place(upload, target)
        return await self._take(request, present, target.resolve())

    async def _take(self, request: RegisterRequest, present: ModelRow | None, folder: Path) -> Registration:
        if present is None:
            return _plain(await self._registry.take_in(request, folder))
        row = await self._registry.row_for(request, folder)
        await self._registry.refer(row, request)
        active = await self._history.active()
        result = None
        if active is not None and active.id == row.id:
            result = await self._switch(row)
        else:
            await self._models.replace(row, before=present.digest)
        log.info("%s is %s now, it was %s", row.id, row.digest, present.digest)
        await self._registry.forget_reference(present.digest)
        await self._remove_folder(present)
        return Registration(row, existing=False, replaced=present.digest, activation=result)

    async def _switch(self, row: ModelRow) -> ActivateResult:
        """The id is the active model's: it has the new content once the new content serves, and else keeps the old.

        Where the old files are gone there is no way back from a switch in place, so the old engine must stay.
        """
        wish = SwitchWish()
        try:
            await self._registry.proven(row.id)
        except Invalid:
            wish = SwitchWish(method="blue_green")
        checkpoint = await self._registry.inspect(Path(row.path))
        return await self._activator.take_over(
            await self._registry.reference_to(row, checkpoint),
            wish,
            on_success=lambda: self._models.replace(row, before=None),
            cause="replace",
        )

    async def _check_replaceable(self, request: RegisterRequest, present: ModelRow) -> None:
        if not (request.replace or self._moves(request.id)):
            raise Conflict(
                f"{request.id} is registered with other content ({present.digest}): register with `replace: true`,"
                f" DELETE /models/{request.id} first, or use another id"
            )
        job_id = await self._models.live_job_of(request.id)
        if job_id is not None:
            raise Conflict(f"{request.id} is used by {job_id}, which is not over: its content cannot be replaced now")

    def _moves(self, model_id: str) -> bool:
        return any(fnmatch.fnmatchcase(model_id, pattern) for pattern in self._moving_ids)

    def _version(self, model_id: str, digest: str) -> Path:
        return self._layout.models / f"{model_id}{_VERSION_MARK}{digest.removeprefix('sha256:')[:12]}"

    def _copy(self, checkpoint: Content, target: Path) -> Path:
        """The server's own copy of a folder that others go on writing to. Blocks. Raises Invalid when it changes."""
        if not target.exists():
            aside = target.with_name(f".{target.name}.partial")
            shutil.rmtree(aside, ignore_errors=True)
            try:
                for file in sorted(checkpoint.path.rglob("*")):
                    name = file.relative_to(checkpoint.path)
                    if file.is_file() and _belongs(name):
                        (aside / name).parent.mkdir(parents=True, exist_ok=True)
                        _copy_file(file, aside / name)
                aside.rename(target)
            except OSError as error:
                shutil.rmtree(aside, ignore_errors=True)
                raise Invalid(f"{checkpoint.path} cannot be copied to {target}: {error.strerror}") from error
        return target.resolve()

    async def _remove_folder(self, old: ModelRow) -> None:
        """Of the content that was replaced; one that others have written to since, or use, is left alone."""
        folder = Path(old.path)
        others = [Path(other.path) for other in await self._models.newest_first()]
        if folder.parent != self._layout.models.resolve() or any(other.is_relative_to(folder) for other in others):
            return
        try:
            unchanged = await self._registry.digest_of(old, await self._registry.inspect(folder)) == old.digest
        except Invalid:
            return
        if unchanged:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def _plain(registered: Registered) -> Registration:
    return Registration(registered.model, registered.existing)


def _belongs(name: Path) -> bool:
    """False for what a trainer keeps beside a model: optimizer states, hidden files, folders of its own."""
    inside = len(name.parts) == 1 or is_content(name.as_posix())
    return inside and not name.name.startswith(".") and name.suffix.lower() not in PICKLES


def _copy_file(source: Path, target: Path) -> None:
    """Shares the blocks where the file system can."""
    with source.open("rb") as reader, target.open("wb") as writer:
        left = os.fstat(reader.fileno()).st_size
        try:
            while left and (done := os.copy_file_range(reader.fileno(), writer.fileno(), left)):
                left -= done
        except OSError:
            reader.seek(0)
            writer.seek(0)
            shutil.copyfileobj(reader, writer, 4 * 1024 * 1024)
