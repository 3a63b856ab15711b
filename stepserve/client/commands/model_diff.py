"""`stepserve models diff`: in what two models differ, and which of them is better where both were measured."""

from collections.abc import Iterable
from typing import Annotated, Any

import typer

from stepserve.client import comparison
from stepserve.client.client import Client
from stepserve.client.errors import Refused
from stepserve.client.results import EvalPoint
from stepserve.client.terminal import AsJson, Host, print_json, server_at, table

_SAME_IN_ALL = frozenset({"id", "model", "path", "local_path", "is_active", "loaded", "load_duration", "warnings"})
_LOOKED_AT = 1000  # newest evals


def diff(
    a: Annotated[str, typer.Argument(help="A model's id.")],
    b: Annotated[str, typer.Argument(help="Another's.")],
    host: Host = None,
    as_json: AsJson = False,
) -> None:
    """What differs between two models, and a sentence for each dataset on which both were evaluated alike."""
    with server_at(host) as server:
        first, second = server.model(a).as_json(), server.model(b).as_json()
        compared = _compared(server, first, second)
    changed = differences(first, second)
    if as_json:
        print_json({"differs": changed, "evals": compared})
        return
    rows = [[name, _text(one["a"]), _text(one["b"])] for name, one in changed.items()]
    table("", ["", a, b], rows, none="They are the same.")
    for one in compared:
        print(f"{one['a']['dataset']}: {comparison.sentence(one)}")
    if not compared:
        print("No dataset was measured alike on both.")


def differences(first: dict[str, Any], second: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Fields of two models that are not equal, each with both values. Where they lie, and whether they are loaded, says
    nothing of what they are.
    """
    names = [name for name in {**first, **second} if name not in _SAME_IN_ALL]
    return {
        name: {"a": first.get(name), "b": second.get(name)} for name in names if first.get(name) != second.get(name)
    }


def pairs(points: Iterable[EvalPoint], first: dict[str, Any], second: dict[str, Any]) -> list[tuple[str, str]]:
    """The newest evals of both with the same questions and settings, as job ids. Of the contents that they have now."""
    newest: dict[tuple[str, str | None], dict[str, EvalPoint]] = {}
    for point in sorted(points, key=lambda point: str(point.created_at)):
        for side, model in (("a", first), ("b", second)):
            if (point.model_id, point.get("model_digest")) == (model["id"], model["digest"]):
                newest.setdefault((str(point.get("dataset")), point.series), {})[side] = point
    return [(both["a"].job_id, both["b"].job_id) for both in newest.values() if len(both) == 2]


def _compared(server: Client, first: dict[str, Any], second: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    for a, b in pairs(server.eval_history(limit=_LOOKED_AT), first, second):
        try:
            found.append(server.compare_evals(a, b))
        except Refused:  # one of them kept no samples
            continue
    return found


def _text(value: Any) -> str:
    return "" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)
