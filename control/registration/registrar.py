"""Registration as a whole: from a folder under models/ or from an upload, and other content in place of what was there.

docs/decisions/0015-ids-that-move.md says why it goes this way.
"""

import asyncio
import fnmatch
import logging
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from control.activation.activator import Activator
from control.activation.wishes import SwitchWish
from control.checkpoints.adapter import Adapter
from control.checkpoints.layout import check_layout
from control.database.tables import ModelRow
from control.errors import Conflict, Invalid
from control.models.activation_log import ActivationLog
from control.models.model_engine import with_its_engine
from control.models.placed_files import Removal, left_alone
from control.models.placed_folders import PlacedFolders
from control.models.registration import RegisterRequest
from control.models.registry import Content, Registered, Registry
from control.models.repository import ModelRepository
from control.models.served_template import keeping_template, other_than
from control.registration.uploads.request import PICKLES
from control.registration.uploads.upload import Upload
from control.registration.uploads.uploads import Uploads
from stepserve.contract import ActivateResult
from stepserve.digest import is_content
from stepserve.paths import Layout

log = logging.getLogger(__name__)

_VERSION_MARK = "@"  # in no id, so a version's folder is nobody's inbox


@dataclass(frozen=True, slots=True)
class Registration:
    """`replaced` is the digest that had the id before; `activation` how the switch went when that one was active.

    `removal` is what was, or would be, removed of the replaced content's folder.
    """

    model: ModelRow
    existing: bool
    replaced: str | None = None
    activation: ActivateResult | None = None
    removal: Removal | None = None


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
        placed: PlacedFolders,
        moving_ids: list[str],
    ) -> None:
        self._layout = layout
        self._registry = registry
        self._models = models
        self._history = history
        self._activator = activator
        self._uploads = uploads
        self._placed = placed
        self._moving_ids = moving_ids

    async def register(self, request: RegisterRequest) -> Registration:
        """Raises as Registry.register; Conflict also when the id's other content may not be replaced now."""
        await self._registry.check_id(request.id)
        request = await self._registry.named(request)
        if request.path is not None:
            async with self._uploads.alone(request.id):
                return await self._register_folder(request)
        async with self._uploads.whole(request.id) as upload:
            if upload is None:
                return await self._register_folder(request)
            return await self._register_upload(request, upload)

    async def _register_folder(self, request: RegisterRequest) -> Registration:
        present = await self._models.find(request.id)
        moves = request.path is None and self._moves(request.id)
        folder = await asyncio.to_thread(self._registry.allowed, request)
        if present is None and not moves:
            if request.dry_run:
                return await self._try(request, None, folder, folder)
            return _plain(await self._registry.take_in(request, folder))
        checkpoint = await self._registry.inspect(folder)
        if present is not None and await self._registry.is_as_asked(present, request, checkpoint):
            return await self._again(request, present) or await self._register_folder(request)
        if present is not None:
            await self._check_replaceable(request, present)
            request = _keeping(request, present, checkpoint)
        changed = present is None or await self._registry.digest_of(present, checkpoint) != present.digest
        copied = moves or (present is not None and changed and folder == Path(present.path))
        target = self._version(request.id, checkpoint.digest) if copied else folder
        if request.dry_run:
            return await self._try(request, present, folder, target)
        async with self._placed.held(target):
            if copied:
                folder = await self._copy(checkpoint, target)
            taken = await self._take(request, present, folder)
        return await self._after(taken, present)

    async def _register_upload(self, request: RegisterRequest, upload: Upload) -> Registration:
        await self._uploads.note_hashes(upload)
        await asyncio.to_thread(check_layout, upload.files_folder)
        checkpoint = await self._registry.inspect(upload.files_folder)
        present = await self._models.find(request.id)
        if present is not None and await self._registry.is_as_asked(present, request, checkpoint):
            registered = await self._again(request, present)
            if registered is None:
                return await self._register_upload(request, upload)
            if not request.dry_run:
                await self._uploads.drop(upload)
            return registered
        if present is not None:
            await self._check_replaceable(request, present)
            request = _keeping(request, present, checkpoint)
        if present is not None or self._moves(request.id):
            target = self._version(request.id, checkpoint.digest)
        else:
            target = self._layout.models / request.id
        if request.dry_run:
            return await self._try(request, present, checkpoint.path, target)
        async with self._placed.held(target):
            if target.exists() and (await self._registry.inspect(target)).digest == checkpoint.digest:
                await self._uploads.drop(upload)  # placed by a try that was killed before it could register
            else:
                await self._uploads.place(upload, target)
            taken = await self._take(request, present, target.resolve())
        return await self._after(taken, present)

    async def _again(self, request: RegisterRequest, present: ModelRow) -> Registration | None:
        """The id has that content already; None when it was deleted meanwhile."""
        if request.dry_run:
            return Registration(present, existing=True)
        try:
            return _plain(await self._registry.take_in(request, Path(present.path)))
        except Invalid:
            if await self._models.find(request.id) is not None:
                raise
            return None

    async def _take(self, request: RegisterRequest, present: ModelRow | None, folder: Path) -> Registration:
        """For a holder of the folder."""
        if present is None:
            return _plain(await self._registry.take_in_held(request, folder))
        row = await self._registry.row_for(request, folder)
        await self._registry.refer(row, request)
        active = await self._history.active()
        result = None
        if active is not None and active.id == row.id:
            result = await self._switch(row, _going(present, row))
        else:
            await self._models.replace(row, before=present.digest, going=_going(present, row))
        log.info("%s is %s now, it was %s", row.id, row.digest, present.digest)
        return Registration(row, existing=False, replaced=present.digest, activation=result)

    async def _after(self, taken: Registration, present: ModelRow | None) -> Registration:
        """Of the content that was replaced, if there was some, goes what the server placed."""
        if present is None:
            return taken
        await self._registry.forget_reference(present.digest)
        going = _going(present, taken.model)
        return taken if going is None else replace(taken, removal=await self._remove_folder(going))

    async def _try(
        self, request: RegisterRequest, present: ModelRow | None, folder: Path, target: Path
    ) -> Registration:
        """What `_take` and `_after` would come to, with the content of `folder` at `target`. Changes nothing."""
        row = await self._registry.row_for(request, folder)
        if present is None:
            return Registration(row, existing=False)
        old = Path(present.path)
        if old == target:
            return Registration(row, existing=False, replaced=present.digest)
        other = await self._registry.also_in(old, row.id)
        if other is None and await asyncio.to_thread(_lies_in, target, old):
            other = row.id
        removal = _shared(old, other) if other is not None else await self._placed.planned(old)
        return Registration(row, existing=False, replaced=present.digest, removal=removal)

    async def _switch(self, row: ModelRow, going: Path | None) -> ActivateResult:
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
            on_success=lambda: self._models.replace(row, before=None, going=going),
            cause="replace",
        )

    async def _check_replaceable(self, request: RegisterRequest, present: ModelRow) -> None:
        if not (request.replace or self._moves(request.id)):
            raise Conflict(
                f"{request.id} is registered with {other_than(present, request)} ({present.digest}): register with"
                f" `replace: true`, DELETE /models/{request.id} first, or use another id"
            )
        job_id = await self._models.live_job_of(request.id)
        if job_id is not None:
            raise Conflict(f"{request.id} is used by {job_id}, which is not over: its content cannot be replaced now")

    def _moves(self, model_id: str) -> bool:
        return any(fnmatch.fnmatchcase(model_id, pattern) for pattern in self._moving_ids)

    def _version(self, model_id: str, digest: str) -> Path:
        return self._layout.models / f"{model_id}{_VERSION_MARK}{digest.removeprefix('sha256:')[:12]}"

    async def _copy(self, checkpoint: Content, target: Path) -> Path:
        """The server's own copy of a folder that others go on writing to. Raises Invalid when it changes."""
        if await asyncio.to_thread(os.path.lexists, target):
            if (await self._registry.inspect(target)).digest != checkpoint.digest:
                raise Invalid(f"{target} is there with other content than its name says: remove it by hand")
        else:
            try:
                aside = await asyncio.to_thread(self._copied, checkpoint.path, target)
                await self._placed.place(aside, target, "copy")
            except OSError as error:
                raise Invalid(f"{checkpoint.path} cannot be copied to {target}: {error.strerror}") from error
        return await asyncio.to_thread(target.resolve)

    def _copied(self, source: Path, target: Path) -> Path:
        aside = self._placed.placing(target)
        try:
            for file in sorted(source.rglob("*")):
                name = file.relative_to(source)
                if file.is_file() and _belongs(name):
                    (aside / name).parent.mkdir(parents=True, exist_ok=True)
                    _copy_file(file, aside / name)
        except OSError:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        return aside

    async def _remove_folder(self, folder: Path) -> Removal:
        """Of the content that was replaced: what the server put there, and only where no model uses it."""
        async with self._placed.held(folder):
            other = await self._registry.also_in(folder)
            if other is None:
                return await self._placed.remove(folder)
            await self._placed.keep(folder)
            return _shared(folder, other)


def _keeping(request: RegisterRequest, present: ModelRow, content: Content) -> RegisterRequest:
    """Other content in a model's place has the model's chat template, unless it brings one, and the model's engine."""
    kept = keeping_template(request, present, content)
    if isinstance(content, Adapter):
        return kept
    if kept.keep_alive is None and present.keep_alive_s is not None:
        kept = kept.model_copy(update={"keep_alive": present.keep_alive_s})
    return with_its_engine(kept, present)


def _going(present: ModelRow, row: ModelRow) -> Path | None:
    """The folder of the content that was replaced; None where the same files are served otherwise."""
    return Path(present.path) if present.path != row.path else None


def _shared(folder: Path, other: str) -> Removal:
    return left_alone(folder, f"is also the folder of {other}")


def _lies_in(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder)


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
