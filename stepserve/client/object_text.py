"""Objects as people write them: TOML or JSON."""

import json
import tomllib
from typing import Any


def object_in(text: str, *, is_json: bool = False) -> dict[str, Any]:
    """JSON where that is known or the text begins with a brace, else TOML.

    Raises ValueError whose text goes on after the name of what was read: "is not valid TOML: …".
    """
    is_json = is_json or text.lstrip().startswith("{")
    try:
        content = json.loads(text) if is_json else tomllib.loads(text)
        json.dumps(content)
    except TypeError as error:
        raise ValueError("holds a date or a time: write it as text, in quotation marks") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not valid {'JSON' if is_json else 'TOML'}: {error}") from error
    if isinstance(content, dict):
        return content
    raise ValueError("is not an object")
