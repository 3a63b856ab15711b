"""`stepserve logs`: the server's log files."""

import json
from typing import Annotated, Any

import typer

from stepserve.client.log_text import log_text
from stepserve.client.terminal import AsJson, Host, server_at


def logs(
    component: Annotated[str, typer.Argument(help="api_server, gpu_worker or jobs.")] = "api_server",
    lines: Annotated[int, typer.Option("--lines", "-n", help="So many of the last.")] = 100,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is written.")] = False,
    host: Host = None,
    as_json: AsJson = False,
) -> None:
    """The last lines of a log as text, or with --json as they are written; with -f those to come too, until Ctrl-C."""
    with server_at(host, interrupted="") as server:
        if not follow:
            for line in server.logs(component, lines).lines:
                _show(line, as_json=as_json)
            return
        path = f"/logs/{component}"
        for name, data in server.events(path, params={"lines": lines, "follow": "true"}, silence_s=3600.0):
            if name != "error":
                _show(_parsed(data), as_json=as_json)


def _show(line: Any, *, as_json: bool) -> None:
    print(json.dumps(line, ensure_ascii=False) if as_json else log_text(line), flush=True)


def _parsed(data: str) -> Any:
    """An event is the line itself, or JSON with it."""
    try:
        content = json.loads(data)
    except ValueError:
        return data
    if isinstance(content, dict) and set(content) == {"line"}:
        return content["line"]
    return content if isinstance(content, str) else data
