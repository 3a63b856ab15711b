"""Which folders below the base directory a job may read from and write to: none of the server's own."""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from datagen.errors import Refused

SHARDS = "train_shards_out"
READABLE = frozenset({"datasets", SHARDS})
"""Of the server's folders those whose files a config may name."""
PRIVATE = frozenset(
    {
        "models", "logs", "runs", "references", "checkpoints", "sockets", "files", "prompts", "config", "backups",
        "trackers",
    }
)  # fmt: skip
_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._ -]*")
_FILES = re.compile(r".*\.(?:json|jsonl|sqlite|sqlite-.*|db|lock|log|sock|toml|ya?ml|key|pem|crt)", re.IGNORECASE)


def check_folder(folder: str) -> str:
    """An `output_dir` as it is written down: its name alone is looked at. Raises ValueError."""
    path = PurePosixPath(folder)
    if path.is_absolute() or folder.startswith("~"):
        raise ValueError(f"must be relative to the base directory, not {folder!r}")
    if ".." in path.parts:
        raise ValueError("must not contain '..'")
    for part in path.parts:
        if not _SEGMENT.fullmatch(part) or part != part.rstrip(" ."):
            raise ValueError(f"{part!r} is not a valid folder name: letters, digits, '.', '_', '-' and spaces")
    if not path.parts:
        raise ValueError("must name a folder below the base directory")
    first = path.parts[0]
    if first.casefold() in PRIVATE | READABLE and first != SHARDS:
        raise ValueError(f"{first}/ belongs to the server: take {SHARDS} or a folder of your own")
    if _FILES.fullmatch(first):
        raise ValueError(f"{first!r} is a file's name, such as the server has: take {SHARDS} or a folder of your own")
    return path.as_posix()


def check_target(base: Path, models: Path, folder: str) -> None:
    """Whether shards may be written to `folder`, with every link on the way followed. Blocks. Raises Refused."""
    try:
        target = (base / folder).resolve()
        homes = [base.resolve(), (base / SHARDS).resolve()]
        own = [place.resolve() for place in (models, *(base / name for name in sorted(PRIVATE | {"datasets"})))]
    except (OSError, RuntimeError) as error:  # a circle of links, a name too long
        raise Refused("output_dir", f"{folder!r} cannot be looked at: {error}") from error
    if not any(target.is_relative_to(home) for home in homes):
        raise Refused("output_dir", f"{folder!r} leads out of the base directory")
    if target == homes[0] or any(target.is_relative_to(place) for place in own):
        raise Refused("output_dir", f"{folder!r} leads to a folder of the server")
    for place in _upwards(target):
        if place.exists():
            if not place.is_dir():
                raise Refused("output_dir", f"{folder!r}: {place.name} is a file")
            return


def _upwards(path: Path) -> Iterator[Path]:
    yield path
    yield from path.parents
