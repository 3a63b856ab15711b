"""`stepserve policy`: what is made by itself of models that are registered."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from stepserve.client.commands.object_file import read_object
from stepserve.client.terminal import AsJson, Host, facts, print_json, server_at, table

app = typer.Typer(no_args_is_help=True, help="Evals, promotions and data generation at each registration.")

Name = Annotated[str, typer.Argument(help="The policy's name.")]


@app.command("list")
def list_policies(host: Host = None, as_json: AsJson = False) -> None:
    """All policies."""
    with server_at(host) as server:
        policies = server.list_policies()
    if as_json:
        print_json(policies)
        return
    table("", ["name", "id", "tags", "makes"], [_row(policy) for policy in policies], none="No policies.")


@app.command()
def show(name: Name, host: Host = None, as_json: AsJson = False) -> None:
    """What a policy made of the last models, and why not."""
    with server_at(host) as server:
        policy = server.get_policy(name)
    if as_json:
        print_json(policy)
        return
    _, pattern, tags, makes = _row(policy)
    facts(policy["name"], [("id", pattern), ("tags", tags), ("makes", makes), ("made by", policy["created_by"])])
    rows = [
        [run["model_id"], step["step"], step["job_id"] or "", step["error"] or _waits(step)]
        for run in policy["runs"]
        for step in run["steps"]
    ]
    table("Runs", ["model", "step", "job", "why not"], rows)


@app.command()
def put(
    name: Name,
    file: Annotated[Path, typer.Argument(help="A TOML or JSON file with match, evals, promotion, data_gen.")],
    host: Host = None,
    as_json: AsJson = False,
) -> None:
    """Make a policy, or change it."""
    policy = read_object(file)
    with server_at(host) as server:
        made = server.put_policy(name, policy)
    print_json(made) if as_json else print(f"{name}: {_row(made)[3]} of each {made['match']['id']}.")


@app.command()
def rm(name: Name, host: Host = None) -> None:
    """Remove a policy; jobs that it made stay."""
    with server_at(host) as server:
        server.remove_policy(name)
    print(f"{name} is removed.")


@app.command()
def dry_run(
    name: Name,
    model: Annotated[str, typer.Argument(help="A registered model's id, or active.")],
    host: Host = None,
    as_json: AsJson = False,
) -> None:
    """Which jobs a policy would make of a model, and what would be refused. Makes none."""
    with server_at(host) as server:
        shown = server.try_policy(name, model)
    if as_json:
        print_json(shown)
        return
    print(f"{name} is {'' if shown['matches'] else 'not '}for {shown['model_id']}.")
    rows = [[step["step"], step["error"] or "", json.dumps(step["request"])] for step in shown["steps"]]
    table("", ["step", "why not", "request"], rows)


def _row(policy: dict[str, Any]) -> list[str]:
    count = len(policy["evals"])
    makes = [f"{count} eval{'s' if count > 1 else ''}"] if count else []
    makes += [name for name in ("promotion", "data_gen") if policy[name] is not None]
    return [policy["name"], policy["match"]["id"], ", ".join(policy["match"]["tags"]), ", ".join(makes)]


def _waits(step: dict[str, Any]) -> str:
    return f"waits for {step['waiting_for']}" if step["waiting_for"] else ""
