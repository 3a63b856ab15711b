"""`stepserve datasets`: what can be evaluated on, how it changed, and how much of it was trained on."""

from typing import Annotated, Any

import typer

from stepserve.client.terminal import AsJson, Host, print_json, server_at, table
from stepserve.client.words import moment

app = typer.Typer(
    no_args_is_help=True, help="Datasets: their versions, what of them is in training data, and their end."
)

Name = Annotated[str, typer.Argument(help="A dataset's name in datasets/.")]


@app.command("list")
def list_(host: Host = None, as_json: AsJson = False) -> None:
    """The datasets, by name."""
    with server_at(host) as server:
        found = server.list_datasets()
    if as_json:
        print_json(found)
        return
    rows = [[one.name, one.format or "", one.digest or ""] for one in found]
    table("", ["name", "format", "digest"], rows, none="No datasets.")


@app.command()
def versions(name: Name, host: Host = None, as_json: AsJson = False) -> None:
    """The contents that a dataset has had, newest first."""
    with server_at(host) as server:
        told = server.dataset_versions(name)
    if as_json:
        print_json(told)
        return
    columns = ["first seen", "rows", "added", "removed", "changed", "evals", "digest"]
    table(told["name"], columns, [_version(one) for one in told["versions"]], none=f"No versions of {name}.")


@app.command()
def rm(name: Name, host: Host = None, as_json: AsJson = False) -> None:
    """Delete a dataset that no job uses. What evals on it found stays."""
    with server_at(host) as server:
        removed = server.remove_dataset(name)
    print_json(removed) if as_json else print(f"{removed['name']} is removed.")


@app.command()
def contamination(
    name: Name,
    against: Annotated[
        list[str] | None, typer.Option("--against", help="Another dataset that models are trained on; repeatable.")
    ] = None,
    shards: Annotated[bool, typer.Option(help="Look through all published shards.")] = True,
    host: Host = None,
    as_json: AsJson = False,
) -> None:
    """Which questions of a dataset are in training data, word for word or nearly so."""
    with server_at(host) as server:
        told = server.contamination(name, against or [], shards=shards)
    if as_json:
        print_json(told)
        return
    share = f"{told['contaminated']} of {told['samples']} questions ({100 * told['share']:.1f} %)"
    print(f"{share} are in training data: {told['ngram']} by {told['words']} words, {told['near_duplicate']} nearly.")
    columns = ["source", "rows", "rows with a question", "nearly", "error"]
    sources = [
        [one["name"], str(one["rows"]), str(one["ngram"]), str(one["near_duplicate"]), one["error"] or ""]
        for one in told["sources"]
    ]
    table("Looked through", columns, sources, none="Nothing was looked through: no shards, and no --against.")
    if told["questions"]:
        rows = [
            [one["id"], one["question"], f"{one['source']}:{one['line']}", one["text"]] for one in told["questions"]
        ]
        table("Questions", ["id", "question", "where", "text"], rows)


def _version(one: dict[str, Any]) -> list[str]:
    changes = one["changes"] or dict.fromkeys(("added", "removed", "changed"), "")
    counts = [str(changes[key]) for key in ("added", "removed", "changed")]
    return [moment(one["first_seen_at"]), str(one["rows"]), *counts, str(len(one["evals"])), one["digest"]]
