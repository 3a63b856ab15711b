"""`stepserve keys`: who may use the server, and what they used."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from stepserve.access import CONTROL_RECOVER_PATH
from stepserve.client.client import Client
from stepserve.client.errors import StepserveError
from stepserve.client.terminal import AsJson, Host, exit_code, facts, print_json, server_at, stop, table
from stepserve.client.words import moment
from stepserve.paths import Layout

app = typer.Typer(no_args_is_help=True, help="Make, list and revoke API keys.")

Local = Annotated[
    bool,
    typer.Option("--local", help="Ask the server on this machine as its owner, without a key (INFERENCE_BASE_DIR)."),
]
KeyId = Annotated[str, typer.Argument(help="A key's id: the ten characters after sy_.")]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    scope: Annotated[
        list[str] | None, typer.Option(help="infer, jobs, weights, metrics, fleet or admin; may be given again.")
    ] = None,
    expires_in_days: Annotated[float | None, typer.Option(help="Days until it expires (default: never).")] = None,
    requests_per_min: Annotated[int | None, typer.Option(help="At most so many requests a minute.")] = None,
    tokens_per_min: Annotated[int | None, typer.Option(help="At most so many tokens a minute.")] = None,
    max_concurrent: Annotated[int | None, typer.Option(help="At most so many requests at once.")] = None,
    keep_traffic: Annotated[
        bool, typer.Option("--keep-traffic", help="Its holder consents that requests and answers are kept.")
    ] = False,
    local: Local = False,
    host: Host = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it: it is shown this once. The first one needs --scope admin."""
    wanted = {
        "name": name,
        "scopes": scope or ["infer"],
        "expires_in_days": expires_in_days,
        "requests_per_min": requests_per_min,
        "tokens_per_min": tokens_per_min,
        "max_concurrent": max_concurrent,
        "keep_traffic": keep_traffic or None,
    }
    with _server(host, local=local) as server:
        made = server.create_key(**{field: value for field, value in wanted.items() if value is not None})
    if as_json:
        print_json(made)
        return
    print(made["key"])
    print(f"{made['name']} may {', '.join(made['scopes'])}. The key is not stored: keep it now.", file=sys.stderr)


@app.command("list")
def list_keys(local: Local = False, host: Host = None, as_json: AsJson = False) -> None:
    """All keys, the newest first, with what they used."""
    with _server(host, local=local) as server:
        keys = server.list_keys()
    if as_json:
        print_json(keys)
        return
    columns = ["id", "name", "status", "scopes", "limits", "expires", "requests", "tokens"]
    table("", columns, [_row(key) for key in keys], none="No keys.")


@app.command()
def show(key_id: KeyId, local: Local = False, host: Host = None, as_json: AsJson = False) -> None:
    """One key, and what it used of each model on each day."""
    with _server(host, local=local) as server:
        key = server.get(f"/keys/{key_id}")
    if as_json:
        print_json(key)
        return
    days = key.pop("usage_by_day")
    facts(key["name"], [(field, _shown(field, value)) for field, value in key.items()])
    columns = ["day", "model", "requests", "prompt_tokens", "completion_tokens"]
    table("", columns, [[str(day[column]) for column in columns] for day in days], none="It was not used yet.")


@app.command()
def revoke(key_id: KeyId, local: Local = False, host: Host = None, as_json: AsJson = False) -> None:
    """Make a key worthless, within about a second."""
    with _server(host, local=local) as server:
        revoked = server.revoke_key(key_id)
    print_json(revoked) if as_json else print(f"{revoked['id']} is revoked.")


@app.command()
def recover(
    new_key: Annotated[bool, typer.Option(help="Make a new administrator's key and print it.")] = True,
    as_json: AsJson = False,
) -> None:
    """Open a server again that closed because its keys were lost or replaced; on its own machine, as its user.

    Keys that the server remembers are brought back if the database has none; revoked ones stay revoked.
    """
    with _server(None, local=True) as server:
        done = server.post(CONTROL_RECOVER_PATH, {"new_key": new_key})
    if as_json:
        print_json(done)
        return
    for what, ids in (("brought back", done["brought_back"]), ("revoked again", done["revoked"])):
        if ids:
            print(f"{what}: {', '.join(ids)}", file=sys.stderr)
    if done["made"] is not None:
        print(done["made"]["key"])
        print("This key may everything. It is not stored: keep it now.", file=sys.stderr)
    print("The server takes the keys that are in the database now (stepserve keys list).", file=sys.stderr)


@contextmanager
def _server(host: str | None, *, local: bool) -> Iterator[Client]:
    """Over the network with a key, or over control's socket, which only the server's own user can open."""
    if not local:
        with server_at(host) as server:
            yield server
        return
    base = Path(os.environ.get("INFERENCE_BASE_DIR") or "~/llm").expanduser().absolute()
    socket = Layout(base=base, models=base / "models").control_socket
    if not socket.exists():
        stop(f"No server runs on {base} (INFERENCE_BASE_DIR).", 3)
    try:
        with Client("http://control", transport=httpx.HTTPTransport(uds=str(socket)), retry_s=5.0) as server:
            yield server
    except StepserveError as error:
        stop(str(error), exit_code(error))


def _shown(field: str, value: Any) -> Any:
    if field == "scopes":
        return ", ".join(value)
    return moment(value) if field.endswith("_at") else value


def _row(key: dict[str, Any]) -> list[str]:
    named = (("requests_per_min", "requests/min"), ("tokens_per_min", "tokens/min"), ("max_concurrent", "at once"))
    limits = ", ".join(f"{key[field]} {words}" for field, words in named if key[field] is not None)
    used = key["usage"]
    return [
        key["id"],
        key["name"],
        key["status"],
        ", ".join(key["scopes"]),
        limits,
        moment(key["expires_at"]),
        str(used["requests"]),
        str(used["prompt_tokens"] + used["completion_tokens"]),
    ]
