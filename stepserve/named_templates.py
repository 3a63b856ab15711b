"""Chat templates for checkpoints that have none: by a name, by a file, or as their own Jinja text."""

from importlib.resources import files
from pathlib import Path
from typing import Final

BUILT_IN: Final = ("alpaca", "chatml", "plain")
LONGEST_CHARACTERS: Final = 256 * 1024  # of a template
SUFFIX: Final = ".jinja"


def template_text(wanted: str, folder: Path, *, anywhere: bool = False) -> str:
    """The Jinja text that `wanted` stands for: a file's name in `folder`, a built-in name, or the text itself.

    With `anywhere` also a path, with a slash in it, of a file that lies elsewhere: for the operator's own settings.
    Blocks. Raises ValueError, the names that there are in it.
    """
    if "{{" in wanted or "{%" in wanted:
        return _checked(wanted, "a chat template")
    name = wanted.removesuffix(SUFFIX)
    own = sorted(file.stem for file in folder.glob(f"*{SUFFIX}"))
    if name in own:
        return _read(folder / f"{name}{SUFFIX}")
    if name in BUILT_IN:
        return files("stepserve").joinpath("templates", f"{name}{SUFFIX}").read_text(encoding="utf-8")
    if anywhere and "/" in wanted:
        return _read(Path(wanted).expanduser())
    raise ValueError(
        f"no chat template is called {wanted[:100]!r}; built in are {', '.join(BUILT_IN)}, {folder} has"
        f" {', '.join(own) or 'none'}, and a text of one's own has {{{{ or {{% in it"
    )


def _read(file: Path) -> str:
    try:
        return _checked(file.read_text(encoding="utf-8"), str(file))
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8") from error


def _checked(text: str, what: str) -> str:
    if len(text) > LONGEST_CHARACTERS:
        raise ValueError(f"{what} of {len(text)} characters is longer than {LONGEST_CHARACTERS}")
    if "\0" in text:
        raise ValueError(f"{what} has a zero byte in it")
    return text
