"""A file that holds one object: a job's config, a policy."""

from pathlib import Path
from typing import Any

from stepserve.client.object_text import object_in
from stepserve.client.terminal import EXIT_REFUSED, stop


def read_object(file: Path) -> dict[str, Any]:
    """JSON where the name ends so or the text begins with a brace, else TOML. Ends the command with a sentence when it
    cannot be read."""
    try:
        text = file.read_text(encoding="utf-8")
        return object_in(text, is_json=file.suffix.lower() == ".json")
    except OSError as error:
        stop(f"{file} cannot be read: {error.strerror}.", EXIT_REFUSED)
    except UnicodeDecodeError:
        stop(f"{file} is not UTF-8 text.", EXIT_REFUSED)
    except ValueError as error:
        stop(f"{file} {error}.", EXIT_REFUSED)
