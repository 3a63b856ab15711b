"""Where a checkpoint may lie: in the models folder, or in a folder that the operator named (`model_roots`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from control.checkpoints.layout import check_layout
from control.errors import Invalid
from control.models.registration import RegisterRequest
from stepserve.digest import is_content
from stepserve.paths import Layout


@dataclass(frozen=True, slots=True)
class ModelRoots:
    layout: Layout
    roots: Sequence[Path]

    def folder_of(self, request: RegisterRequest) -> Path:
        """The folder that the request means, links resolved. Blocks.

        Raises Invalid when it, or a file in it that the engine would read, lies outside every root, or when it holds
        what could be read as a second checkpoint.
        """
        models = self.layout.models
        folder = models / request.id if request.path is None else self.layout.base / Path(request.path).expanduser()
        if not folder.is_dir():
            raise Invalid(f"path: the folder {folder} does not exist")
        resolved = folder.resolve()
        roots = [root.resolve() for root in (models, *self.roots)]
        if not _inside(resolved, roots):
            raise Invalid(f"path: {folder} lies outside {self._named()}")
        try:
            linked = _linked_files(resolved)
        except OSError as error:
            raise Invalid(f"path: {folder} cannot be read: {error.strerror}") from error
        for file in linked:
            if not _inside(file.resolve(), roots):
                name = file.relative_to(resolved).as_posix()
                raise Invalid(f"path: {name} in {folder} is a link to {file.resolve()}, outside {self._named()}")
        check_layout(resolved)
        return resolved

    def _named(self) -> str:
        named = ", ".join(str(root) for root in (self.layout.models, *self.roots))
        others = " (setting model_roots)" if self.roots else "; other folders can be allowed by the setting model_roots"
        return f"{named}, where models may lie{others}"


def _inside(path: Path, roots: Sequence[Path]) -> bool:
    return any(path != root and path.is_relative_to(root) for root in roots)


def _linked_files(folder: Path) -> list[Path]:
    """What is read of a checkpoint is read through links; folders of others beside it are not looked into."""
    inner = [file for file in folder.glob("*/*") if is_content(file.relative_to(folder).as_posix())]
    linked = [file for file in (*folder.iterdir(), *inner) if file.is_symlink() or file.parent.is_symlink()]
    return sorted(file for file in linked if file.is_file())
