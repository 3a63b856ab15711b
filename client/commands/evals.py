"""`switchyard eval`: measure a model."""

from typing import Annotated, Any

import typer

from client.terminal import AsJson, Host, end_with, follow, print_json, server_at, table

app = typer.Typer(no_args_is_help=True, help="Evaluate models and look at results.")

_SHOWN = (
    "accuracy",
    "correct",
    "total_samples",
    "accuracy_ci95",
    "avg_loss",
    "perplexity",
    "truncated",
    "engine_errors",
)


@app.command()
def run(
    dataset: Annotated[str, typer.Argument(help="A dataset's name in datasets/.")],
    model: Annotated[str, typer.Option(help="A model's id, or active.")] = "active",
    name: Annotated[str, typer.Option(help="What to call it.")] = "cli",
    max_samples: Annotated[int, typer.Option(help="At most so many samples.")] = 1000,
    max_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 256,
    priority: Annotated[int, typer.Option(help="Higher starts first.")] = 0,
    dedupe: Annotated[bool, typer.Option(help="Take an identical eval's job if there is one.")] = False,
    when_inactive: Annotated[
        str, typer.Option(help="wait, or switch: while the model is not the active one.")
    ] = "wait",
    wait: Annotated[bool, typer.Option(help="Follow the job to its end.")] = True,
    host: Host = None,
    as_json: AsJson = False,
) -> None:
    """Make an eval job and follow it; exit code 1 unless it is done."""
    body = {
        "model_id": model,
        "name": name,
        "dataset_ref": dataset,
        "max_samples": max_samples,
        "max_tokens": max_tokens,
        "priority": priority,
        "dedupe": dedupe,
        "when_inactive": when_inactive,
    }
    with server_at(host) as server:
        made = server.post("/eval/jobs", body)
        if not wait:
            print_json(made) if as_json else print(made["job_id"])
            return
        job = follow(server, made["job_id"])
    _show(job, as_json=as_json)
    end_with(job)


@app.command()
def show(
    job_id: Annotated[str, typer.Argument(help="An eval job's id.")], host: Host = None, as_json: AsJson = False
) -> None:
    """An eval's result so far."""
    with server_at(host) as server:
        job = server.get(f"/eval/jobs/{job_id}")
    _show(job, as_json=as_json)


def _show(job: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(job)
        return
    result = job["result"] or {}
    rows = [["model", job["model_id"]], ["status", job["status"]]]
    rows += [[key, _number(result[key])] for key in _SHOWN if result.get(key) is not None]
    if job["error"]:
        rows.append(["error", job["error"]])
    table(job["id"], ["", ""], rows)


def _number(value: Any) -> str:
    if isinstance(value, list):
        return " to ".join(_number(part) for part in value)
    return f"{value:.4f}" if isinstance(value, float) else str(value)
