"""The trackers by name, and what each needs to be told. Nothing of theirs is imported here."""

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from urllib.parse import urlsplit

GROUP = "stepserve.trackers"
DEFAULT_RUN = "stepserve"
_NAME = re.compile(r"[^'\"`\\\x00-\x1f]{1,200}")  # trackers' searches have no sound way to quote them


@dataclass(frozen=True, slots=True)
class Known:
    """A tracker of ours: `log` in `module`. `library` is what it imports and people install."""

    module: str
    options: frozenset[str] = frozenset({"run"})
    required: frozenset[str] = frozenset()
    library: str | None = None


_HERE = "control.notifications.trackers"
KNOWN: Mapping[str, Known] = {
    "mlflow": Known(f"{_HERE}.mlflow", frozenset({"url", "experiment", "run"}), frozenset({"url"})),
    "tensorboard": Known(f"{_HERE}.tensorboard", library="tensorboardX"),
    "trackio": Known(f"{_HERE}.trackio", frozenset({"project", "run"}), library="trackio"),
    "wandb": Known(f"{_HERE}.wandb", frozenset({"project", "run"}), library="wandb"),
}


class BadTracker(ValueError):
    """The message names the field and says what to do."""


def check(name: str, options: Mapping[str, str]) -> None:
    """Raises BadTracker."""
    known = KNOWN.get(name)
    if known is None:
        names = sorted({*KNOWN, *entry_points(group=GROUP).names})
        if name not in names:
            raise BadTracker(f"tracker: {name!r} is not installed; there are {', '.join(names)}")
        return
    if unknown := sorted(set(options) - known.options):
        raise BadTracker(f"options.{unknown[0]}: {name} takes {', '.join(sorted(known.options))}")
    if missing := sorted(known.required - set(options)):
        raise BadTracker(f"options.{missing[0]}: {name} needs it")
    for field, value in options.items():
        if field != "url" and not _NAME.fullmatch(value):
            raise BadTracker(f"options.{field}: {value!r} must be a name without quotes, backslashes and line breaks")
    if known.library is not None and importlib.util.find_spec(known.library) is None:
        raise BadTracker(f"tracker: {name} needs a library that is not installed here: pip install {known.library}")
    if "url" in options:
        _check_url(options["url"])


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise BadTracker(f"options.url: {url!r} is not a URL: {error}") from error
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment or port == 0:
        raise BadTracker(f"options.url: {url!r} is not a URL such as http://mlflow.internal:5000")
    if parts.username or parts.password:
        raise BadTracker(
            "options.url: set MLFLOW_TRACKING_URI, MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD for the "
            "server instead"
        )
