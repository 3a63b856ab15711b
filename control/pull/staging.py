"""Where a pull's files lie until they are a checkpoint: beside the models, so that a rename makes them one."""

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from control.errors import Invalid
from control.pull.files import has_content, present_bytes
from control.pull.selection import RemoteFile
from stepserve.durable import sync_tree
from stepserve.own_files import remove_links

FOLDER = ".pulls"
LEAST_SPARE_BYTES = 64 * 1024 * 1024
_COMMIT = re.compile(r"[0-9A-Za-z]{1,12}")


class Staging:
    """One id's pull of one commit, kept when it fails, so that the next one goes on with it. All methods block."""

    def __init__(self, models: Path, model_id: str, commit: str) -> None:
        self._root = models / FOLDER
        self._model_id = model_id
        self._place = self._root / f"{model_id}@{commit[:12]}"
        self.files = self._place / "files"
        self.target = models / model_id

    def is_done(self, wanted: Sequence[RemoteFile]) -> bool:
        """Whether an earlier attempt has put the checkpoint in its place. Raises Invalid for anything else there."""
        if not os.path.lexists(self.target):
            return False
        paths = [(self.target / file.name, file) for file in wanted]
        if all(path.is_file() and has_content(path, file) for path, file in paths):
            return True
        raise Invalid(
            f"{self.target} is there already with other content: pull under another id, or remove it first"
            f" (DELETE /models/{self._model_id}?files=true where the server placed it, else by hand)"
        )

    def make_room(self, wanted: list[RemoteFile], spare_bytes: int) -> int:
        """How many bytes are there already. Raises Invalid when the rest does not fit, `spare_bytes` left.

        Links that somebody put there are unlinked: what is written there goes nowhere else, and was fetched by us.
        """
        self._root.mkdir(parents=True, exist_ok=True)
        for folder in (self._place, self.files):
            if folder.is_symlink():
                folder.unlink()
        self.files.mkdir(parents=True, exist_ok=True)
        remove_links(self._place)
        present = present_bytes(wanted, self.files)
        missing = sum(file.size_bytes for file in wanted) - present
        free = shutil.disk_usage(self.files).free
        if missing + spare_bytes > free:
            raise Invalid(
                f"{missing / 1e9:.2f} GB are still to come, and the disk of {self._root.parent} has"
                f" {free / 1e9:.2f} GB free, of which {spare_bytes / 1e9:.2f} GB (min_free_disk_bytes) stay so"
            )
        return present

    def sync(self) -> None:
        """The files survive a power cut from here on."""
        sync_tree(self.files)

    def clear(self) -> None:
        """Forgets what earlier pulls of this id left, of other commits too."""
        for place in self._root.glob(f"{self._model_id}@*"):
            if _COMMIT.fullmatch(place.name.rpartition("@")[2]):
                shutil.rmtree(place, ignore_errors=True)  # which follows no link
