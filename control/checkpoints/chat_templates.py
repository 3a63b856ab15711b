"""Whether a checkpoint's chat templates can be served: they are programs of a stranger, run for each chat."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from control.checkpoints.json_file import read_json
from control.errors import Invalid
from stepserve.named_templates import LONGEST_CHARACTERS

PROGRAM = (sys.executable, "-m", "control.checkpoints.template_program")
LIMIT_S = 120.0  # the program's own bounds are on processor time; this one is for a machine with none to spare

_passed: set[str] = set()
_of_use: set[str] = set()


def check_templates(folder: Path, program: Sequence[str] = PROGRAM) -> None:
    """Renders sample conversations with each, in a process that is killed. Blocks; what passed once is not tried again.

    Raises Invalid naming the file.
    """
    templates = dict(_templates(folder))
    for name, text in templates.items():
        if len(text) > LONGEST_CHARACTERS:
            raise Invalid(f"{name}: a chat template of {len(text)} characters is longer than {LONGEST_CHARACTERS}")
    untried = {name: text for name, text in templates.items() if _sha(text) not in _passed}
    if untried:
        _try(untried, program)


def check_given(field: str, text: str, program: Sequence[str] = PROGRAM) -> None:
    """As `check_templates`, for a template that somebody names. Raises Invalid naming the field, also where the
    template is no valid Jinja or cannot render one question.
    """
    if _sha(text) in _of_use:
        return
    broken = _try({field: text}, program)[field]
    if broken is not None:
        raise Invalid(f"{field}: the chat template is of no use: {broken}")
    _of_use.add(_sha(text))


def has_template(folder: Path) -> bool:
    """Whether the checkpoint brings a chat template, or a tokenizer of Mistral's, which needs none. Blocks.

    Raises Invalid for a file that cannot be read.
    """
    return any(text.strip() for _, text in _templates(folder)) or (folder / "tekken.json").is_file()


def brings_another(folder: Path, base: Path, registered: str | None) -> bool:
    """Whether an adapter brings a chat template that is not its base's: the one that the base was `registered` with, or
    the one in its files. Blocks. Raises Invalid for a file that cannot be read.
    """
    own = _first(folder)
    return own is not None and own != (registered.strip() if registered is not None else _first(base))


def _first(folder: Path) -> str | None:
    return next((text.strip() for _, text in _templates(folder) if text.strip()), None)


def _try(untried: dict[str, str], program: Sequence[str]) -> dict[str, str | None]:
    """Why each is broken, None for one that is not. Raises Invalid for one that must not be served."""
    waiting, found = dict(untried), dict[str, str | None]()
    try:
        done = subprocess.run(
            program, input=json.dumps(untried).encode(), capture_output=True, timeout=LIMIT_S, check=False
        )
        output = done.stdout
    except subprocess.TimeoutExpired as error:
        output = error.stdout or b""
    tried = ""
    for line in output.splitlines():
        said = json.loads(line)
        tried = said.get("tries", tried)
        if "tried" not in said:
            continue
        if said["fault"] is not None:
            raise Invalid(f"{tried}: the chat template cannot be served: {said['fault']}")
        found[tried] = said["broken"]
        _passed.add(_sha(waiting.pop(tried)))
    if waiting:
        name = tried if tried in waiting else next(iter(waiting))
        raise Invalid(f"{name}: the chat template cannot be served: it takes too long or too much memory")
    return found


def _templates(folder: Path) -> Iterator[tuple[str, str]]:
    """Where transformers looks for them: files of their own, and members of JSON files."""
    for path in (folder / "chat_template.jinja", *sorted(folder.glob("chat_templates/*.jinja"))):
        if path.is_file():
            yield path.relative_to(folder).as_posix(), _text(path)
    for name in ("tokenizer_config.json", "chat_template.json", "processor_config.json"):
        if (folder / name).is_file():
            value = read_json(folder / name)
            if isinstance(value, dict):
                yield from _members(name, value.get("chat_template"))


def _members(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """One template, or several by name: as a list of objects, or as an object."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, list):
        for number, each in enumerate(value):
            if isinstance(each, dict) and isinstance(each.get("template"), str):
                yield f"{name}, template {number}", each["template"]
    elif isinstance(value, dict):
        for key, text in value.items():
            if isinstance(text, str):
                yield f"{name}, template {key!r}", text


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > 4 * LONGEST_CHARACTERS:
            raise Invalid(f"{path.name}: a chat template is longer than {LONGEST_CHARACTERS} characters")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise Invalid(f"{path.name} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise Invalid(f"{path.name} is not UTF-8") from error


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
