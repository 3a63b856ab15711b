"""A file that holds one object: a job's config, a policy."""

import json
import tomllib
from pathlib import Path
from typing import Any

from stepserve.client.terminal import EXIT_REFUSED, stop


def read_object(file: Path) -> dict[str, Any]:
    """JSON where the name ends so or the text begins with a brace, else TOML. Ends the command with a sentence when it
    cannot be read."""
    kind = "TOML"
    try:
        text = file.read_text(encoding="utf-8")
        if file.suffix.lower() == ".json" or text.lstrip().startswith("{"):
            kind = "JSON"
        content = json.loads(text) if kind == "JSON" else tomllib.loads(text)
        json.dumps(content)
    except OSError as error:
        stop(f"{file} cannot be read: {error.strerror}.", EXIT_REFUSED)
    except TypeError:
        stop(f"{file} holds a date or a time: write it as text, in quotation marks.", EXIT_REFUSED)
    except ValueError as error:
        stop(f"{file} is not valid {kind}: {error}.", EXIT_REFUSED)
    if not isinstance(content, dict):
        stop(f"{file} is not an object.", EXIT_REFUSED)
    return content
