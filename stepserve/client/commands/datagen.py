"""`stepserve datagen`: training data from a model."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from stepserve.client.client import Client
from stepserve.client.commands.object_file import read_object
from stepserve.client.results import Job
from stepserve.client.terminal import (
    AsJson,
    Host,
    end_with,
    facts,
    follow,
    pair,
    print_json,
    server_at,
    table,
)

_PAGE = 500
_LONGEST_SHOWN = 100
_LONGEST_VALUE = 500

app = typer.Typer(no_args_is_help=True, help="Have a model make training data.")


@app.command()
def run(
    strategy: Annotated[str, typer.Argument(help="self_instruct, fix_eval_failures, custom, best_of_n or pipeline.")],
    setting: Annotated[
        list[str] | None, typer.Option("--set", "-s", help="A key of the job's config, as key=value (JSON or text).")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="The job's config as a TOML or JSON file (.json).")] = None,
    model: Annotated[str, typer.Option(help="A model's id, or active.")] = "active",
    wait: Annotated[bool, typer.Option(help="Follow the job to its end.")] = True,
    host: Host = None,
    as_json: AsJson = False,
) -> None:
    """Make a data_gen job and follow it; exit code 1 unless it is done."""
    settings = ({} if config is None else read_object(config)) | dict(pair("--set", text) for text in setting or [])
    with server_at(host, interrupted="Stopped watching; the job goes on.") as server:
        made = server.datagen_job(model, strategy, settings)
        if not wait:
            print_json(made) if as_json else print(made.job_id)
            return
        follow(server, made.job_id)
        job = server.get_datagen_job(made.job_id)
    _show(job, as_json=as_json)
    end_with(job)


@app.command()
def preview(
    file: Annotated[Path, typer.Argument(help="The config of a pipeline, as a TOML or JSON file (.json).")],
    model: Annotated[str, typer.Option(help="A model's id, or active.")] = "active",
    rows: Annotated[int, typer.Option(min=1, max=50, help="How many.")] = 10,
    host: Host = None,
    as_json: AsJson = False,
) -> None:
    """The first rows of a pipeline, column by column; makes no job."""
    config = read_object(file)
    with server_at(host) as server:
        found = server.preview_pipeline(model, config, rows)
    if as_json:
        print_json(found)
        return
    for row in found["rows"]:
        columns = [
            (name, _short(made[name]))
            for made in (row["columns"], *row["items"])
            for name in found["order"]
            if name in made
        ]
        turns = [(turn["role"], turn["content"]) for example in row["examples"] for turn in example["messages"]]
        dropped = [("dropped", f"{one['reason']}: {one['why']}") for one in row["rejected"]]
        facts("", [("row", row["attempt"]), *columns, *turns, *dropped])
    kept = sum(bool(row["examples"]) for row in found["rows"])
    examples = sum(len(row["examples"]) for row in found["rows"])
    print(f"{kept} of {len(found['rows'])} rows would be kept ({examples} examples); the seed is {found['seed']}.")


@app.command()
def show(
    job_id: Annotated[str, typer.Argument(help="A data_gen job's id.")], host: Host = None, as_json: AsJson = False
) -> None:
    """A job's result so far and its shards."""
    with server_at(host) as server:
        job = server.get_datagen_job(job_id)
    _show(job, as_json=as_json)


@app.command()
def report(
    job_id: Annotated[str, typer.Argument(help="A data_gen job's id.")], host: Host = None, as_json: AsJson = False
) -> None:
    """How good a job's examples are, and what they cost."""
    with server_at(host) as server:
        found = server.datagen_report(job_id)
    if as_json:
        print_json(found)
        return
    facts(job_id, [("published", found["published"]), *_flat(found["yield"]), *_flat(found["cost"])])
    for title in ("duplicates", "contamination", "diversity", "lengths", "numbers", "verified", "sources"):
        facts(title, _flat(found["job"][title]))
    limits = [[each["name"], str(each["limit"]), str(each["value"]), _kept(each)] for each in found["limits"]]
    if limits:
        table("limits", ["limit", "asked for", "found", ""], limits)


@app.command()
def explain(
    job_id: Annotated[str, typer.Argument(help="A data_gen job's id.")],
    reason: Annotated[str | None, typer.Option(help="Only what was dropped for this reason.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many to show.")] = 20,
    host: Host = None,
    as_json: AsJson = False,
) -> None:
    """Why things did not become examples: counts by reason, then the first ones."""
    with server_at(host) as server:
        found = _rejected(server, job_id, reason, limit)
    if as_json:
        print_json(found)
        return
    counts = found["by_reason"]
    if counts is not None:
        table("", ["reason", "dropped"], [[name, str(count)] for name, count in counts.items()])
    rows = [[str(one["attempt"]), one["reason"], one["why"], _about(one["detail"])] for one in found["rejected"]]
    table(job_id, ["attempt", "reason", "why", "what"], rows, none="Nothing was dropped.")


def _rejected(server: Client, job_id: str, reason: str | None, limit: int) -> dict[str, Any]:
    """As many pages as `limit` takes."""
    found: list[dict[str, Any]] = []
    after: str | None = None
    while True:
        page = server.datagen_rejected(job_id, reason, after, min(_PAGE, limit - len(found)))
        found += page["rejected"]
        after = page["next"]
        if after is None or len(found) >= limit:
            return page | {"rejected": found}


def _about(detail: dict[str, str]) -> str:
    named = next((detail[name] for name in ("question", "instruction", "row") if name in detail), "")
    return named[:_LONGEST_SHOWN]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"


def _kept(limit: dict[str, Any]) -> str:
    return "kept" if limit["is_kept"] else "missed"


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Names and values with what is inside of objects written out, lists as JSON."""
    found: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            found += _flat(value, f"{prefix}{name}.")
        else:
            found.append((prefix + name, json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value))
    return found


def _show(job: Job, *, as_json: bool) -> None:
    if as_json:
        print_json(job)
        return
    result = [(name, json.dumps(value)) for name, value in (job.result or {}).items()]
    shards = "\n".join(job.shards)
    facts(job.id, [("model", job.model_id), ("status", job.status), *result, ("shards", shards), ("error", job.error)])
