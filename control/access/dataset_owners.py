"""Which key put which data set here: a small file each in datasets/.owners. What has none is everybody's."""

import os
import re
import secrets
from contextlib import suppress
from pathlib import Path

from control.access.view import View
from control.errors import Conflict, NoSpace, NotFound

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")  # of what can be put here over HTTP
DATASET_SUFFIXES = ("", ".jsonl", ".jsonl.gz")  # evals.datasets.resolve_dataset tries them in this order


class DatasetOwners:
    """Methods block."""

    def __init__(self, datasets_dir: Path) -> None:
        self._datasets = datasets_dir
        self._owners = datasets_dir / ".owners"

    def of(self, name: str) -> str | None:
        if not _NAME.fullmatch(name):
            return None
        try:
            return (self._owners / name).read_text().strip() or None
        except OSError:
            return None

    def check(self, view: View, field: str, ref: str) -> None:
        """Raises NotFound for a data set of another key, just as for one that is not there."""
        if view.owner is None:
            return
        root = self._datasets.resolve()
        for suffix in DATASET_SUFFIXES:
            try:
                path = (root / f"{ref}{suffix}").resolve()
                if not path.is_relative_to(root) or not path.is_file():
                    continue
            except (OSError, ValueError, RuntimeError):
                continue
            inside = path.relative_to(root)
            hidden = any(part.startswith(".") for part in inside.parts)
            if not hidden and self._sees(view, str(inside)):
                return
            break
        raise NotFound(f"{field}: there is no data set {ref!r}: see GET /datasets")

    def visible(self, view: View, names: list[str]) -> list[str]:
        return names if view.owner is None else [name for name in names if self._sees(view, name)]

    def take(self, view: View, owner: str | None, name: str, *, replace: bool) -> None:
        """Before a file is put: a new name is `owner`'s from now on, None being everybody; one that is there keeps its
        owner. Raises Conflict where it is not the asker's to write.
        """
        if not _NAME.fullmatch(name):  # refused by the store
            return
        there, present = (self._datasets / name).exists(), self.of(name)
        if view.owner is not None and present not in {None, view.owner}:
            raise Conflict(f"name: {name} is taken: choose another one")
        if there:
            if view.owner is not None and present is None and replace:
                raise Conflict(f"name: {name} was not put here with this key: an administrator may replace it")
            return
        if present != owner:
            (self._owners / name).unlink(missing_ok=True)
        if owner is not None:
            self._note(name, owner)
            if (first := self.of(name)) != owner and view.owner is not None:
                raise Conflict(f"name: {name} is taken: choose another one" if first else f"name: {name}: try again")

    def check_may_remove(self, view: View, name: str) -> None:
        """Raises Conflict for a data set that was not put here with a key that the view sees."""
        if view.owner is not None and self.of(name) is None:
            raise Conflict(f"name: {name} was not put here with this key: an administrator may remove it")

    def keep(self, owner: str | None, name: str, *, new: bool) -> None:
        """After it was put: a `new` file has its owner even if another try of the same key failed meanwhile."""
        if new and owner is not None and _NAME.fullmatch(name):
            self._note(name, owner)

    def _note(self, name: str, owner: str) -> None:
        """Whole or not at all, and never in the place of another one's."""
        aside = self._owners / f".{name[:100]}.{secrets.token_hex(4)}"
        try:
            self._owners.mkdir(exist_ok=True)
            aside.write_text(owner)
            with suppress(FileExistsError):
                os.link(aside, self._owners / name)
        except OSError as error:
            raise NoSpace(f"{name}: whose it is cannot be noted: {error.strerror}") from error
        finally:
            aside.unlink(missing_ok=True)

    def forget_if_gone(self, name: str) -> None:
        """After it was removed, or a put failed."""
        if _NAME.fullmatch(name) and not (self._datasets / name).exists():
            with suppress(OSError):
                (self._owners / name).unlink(missing_ok=True)

    def _sees(self, view: View, name: str) -> bool:
        owner = self.of(name)
        return owner is None or view.sees(owner)
