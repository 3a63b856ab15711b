"""A line of the server's log for a person: when, how bad, who, what, and the other facts as name=value."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

_APART = frozenset({"time", "level", "component", "logger", "message", "exc_info", "stack_info"})


def log_text(line: Any) -> str:
    """A line that is no JSON object, as of the engine's own log, is left as it is; a traceback follows its line."""
    facts = _facts(line)
    if facts is None:
        return str(line)
    begin = [_time(facts.get("time")), f"{facts.get('level', ''):<7}", str(facts.get("component", ""))]
    said = [str(facts["message"])] if facts.get("message") else []
    rest = [f"{name}={_value(value)}" for name, value in facts.items() if name not in _APART]
    text = " ".join(part for part in (*begin, *said, *rest) if part)
    return "\n".join([text, *(str(facts[name]) for name in ("exc_info", "stack_info") if facts.get(name))])


def _facts(line: Any) -> Mapping[str, Any] | None:
    if isinstance(line, str):
        try:
            line = json.loads(line)
        except ValueError:
            return None
    return line if isinstance(line, dict) and "time" in line else None


def _time(value: object) -> str:
    """In this machine's time zone, to the second."""
    try:
        return datetime.fromisoformat(str(value)).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except ValueError:
        return str(value)


def _value(value: object) -> str:
    return value if isinstance(value, str) and " " not in value else json.dumps(value, ensure_ascii=False)
