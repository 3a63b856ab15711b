"""Whether files bring a chat template: noted for models that were registered before that was (migration 0011)."""

import asyncio
import logging
from pathlib import Path

from control.checkpoints.chat_templates import brings_another
from control.checkpoints.checkpoint import brings_template
from control.database.tables import ModelRow
from control.errors import Invalid
from control.models.repository import ModelRepository

log = logging.getLogger(__name__)


async def note_templates(models: ModelRepository) -> None:
    """Once, at start. Models whose files are gone or cannot be read are left for the next start."""
    for row in await models.without_template_note():
        base = await models.find(row.base_model) if row.base_model is not None else None
        try:
            found = await asyncio.to_thread(_found, row, base)
        except (Invalid, OSError) as error:
            log.info("it is not known whether %s brings a chat template: %s", row.id, error)
            continue
        if found is not None:
            await models.note_template(row, found)


def _found(row: ModelRow, base: ModelRow | None) -> bool | None:
    folder = Path(row.path)
    if not folder.is_dir():
        raise Invalid(f"the folder {folder} does not exist")
    if row.base_model is None:
        return brings_template(folder, row.architecture)
    return brings_another(folder, Path(base.path), base.chat_template) if base is not None else None
