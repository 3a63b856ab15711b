"""The version of pushed weights that the fleet serves, on control's disk: for who joins, and for the way back."""

import asyncio
import logging
import shutil
from pathlib import Path

from pydantic import ValidationError

from control.errors import Invalid
from control.models.activation_log import ActiveModel
from stepserve.fleet import KEPT_VERSION_FILE, KeptVersion
from stepserve.paths import Layout

log = logging.getLogger(__name__)


class KeptVersions:
    """The gateway writes them; what is not needed any more is removed here."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    async def of(self, active: ActiveModel) -> KeptVersion | None:
        """What was pushed and is committed; None: the registered files are. Raises Invalid when it is not whole."""
        if not active.version.number:
            return None
        folder = self._layout.pushed_version(active.id, active.version.number)
        try:
            content = await asyncio.to_thread((folder / KEPT_VERSION_FILE).read_bytes)
            kept = KeptVersion.model_validate_json(content)
        except (OSError, ValidationError) as error:
            raise Invalid(f"{active} cannot be read from {folder} ({error}): push again, or set_active") from error
        if kept.digest != active.version_digest:
            raise Invalid(f"{folder} holds {kept.digest}, not {active}: push again, or set_active")
        return kept.model_copy(update={"folder": str(folder)})

    async def tidy(self, active: ActiveModel | None) -> None:
        """Removes every version but the committed one."""
        await asyncio.to_thread(self._remove_others, active)

    def _remove_others(self, active: ActiveModel | None) -> None:
        keep = active and self._layout.pushed_version(active.id, active.version.number)
        try:
            others = [each for each in self._layout.pushed.iterdir() if each != keep and _is_ours(each)]
        except OSError:
            return
        for folder in others:
            shutil.rmtree(folder, ignore_errors=True)


def _is_ours(folder: Path) -> bool:
    """Whole, so that nothing is removed that is still being written."""
    return (folder / KEPT_VERSION_FILE).is_file()
