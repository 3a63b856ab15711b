"""`stepserve fleet`: the gateways of a control plane, and which of them take requests."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from stepserve.client.terminal import AsJson, Host, print_json, server_at, table

app = typer.Typer(no_args_is_help=True, help="Look at the gateways of a fleet, keep them out and let them in.")

MemberId = Annotated[str, typer.Argument(help="A member's id, as `fleet status` shows it.")]


@app.command()
def status(host: Host = None, as_json: AsJson = False) -> None:
    """Every gateway with its state and what it serves, and the rollout that runs."""
    with server_at(host) as server:
        seen = server.fleet()
    if as_json:
        print_json(seen)
        return
    columns = ["id", "state", "model", "version", "in flight", "heard", "zone", "url", "why"]
    table("", columns, [_row(each) for each in seen["gateways"]])
    committed, rollout = seen["committed"], seen["rollout"]
    print(f"Committed: {committed['model']} ({committed['digest']})." if committed else "No model is active.")
    if rollout is not None and rollout["state"] not in {"committed", "rolled_back"}:
        steps = ", ".join(f"{step['member']} {step['state']}" for step in rollout["steps"])
        version = f" version {rollout['version']}" if rollout["version"] else ""
        print(f"Rollout {rollout['id']} to {rollout['model']}{version}: {rollout['state']} ({steps}).")


@app.command()
def drain(member: MemberId, host: Host = None, as_json: AsJson = False) -> None:
    """Have a member answer what it has and get no more."""
    _hold(member, "drain", host, as_json=as_json)


@app.command()
def cordon(member: MemberId, host: Host = None, as_json: AsJson = False) -> None:
    """Keep a member out of requests and switches."""
    _hold(member, "cordon", host, as_json=as_json)


@app.command()
def uncordon(member: MemberId, host: Host = None, as_json: AsJson = False) -> None:
    """Let a member in again: it is brought to the committed model first."""
    _hold(member, "uncordon", host, as_json=as_json)


@app.command()
def rm(member: MemberId, host: Host = None, as_json: AsJson = False) -> None:
    """Forget a member that is lost."""
    with server_at(host) as server:
        done = server.remove_member(member)
    print_json(done) if as_json else print(f"{member} is removed.")


def _hold(member: str, action: str, host: str | None, *, as_json: bool) -> None:
    with server_at(host) as server:
        shown = server.hold_member(member, action)
    print_json(shown) if as_json else print(f"{member} is {shown['state']}.")


def _row(member: Mapping[str, Any]) -> list[str]:
    return [
        member["id"],
        member["state"],
        member["model"] or "",
        str(member["version"]),
        str(member["in_flight"]),
        f"{member['heartbeat_age_s']:.1f} s ago",
        member["zone"],
        member["url"] or "",
        member["reason"] or "",
    ]
