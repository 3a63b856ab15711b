"""`stepserve eval`: measure a model."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from stepserve.client.commands import eval_compare, eval_tasks
from stepserve.client.commands.reports import Format, Out, deliver, format_for
from stepserve.client.results import EvalPoint, Job
from stepserve.client.terminal import (
    EXIT_REFUSED,
    AsJson,
    Host,
    end_with,
    facts,
    follow,
    print_json,
    server_at,
    stop,
    table,
)

app = typer.Typer(no_args_is_help=True, help="Evaluate models and look at results.")

_SHOWN = (
    "accuracy",
    "correct",
    "total_samples",
    "accuracy_ci95",
    "avg_loss",
    "perplexity",
    "truncated",
    "errors",
    "engine_errors",
)


@app.command()
def run(
    dataset: Annotated[str, typer.Argument(help="A dataset's name in datasets/.")],
    model: Annotated[str, typer.Option(help="A model's id, or active.")] = "active",
    name: Annotated[str, typer.Option(help="What to call it.")] = "cli",
    metric: Annotated[list[str] | None, typer.Option("--metric", help="accuracy, f1 …; may be given again.")] = None,
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
    with server_at(host, interrupted="Stopped watching; the job goes on.") as server:
        made = server.eval_job(
            model,
            name,
            dataset,
            metric or ["accuracy"],
            max_samples,
            max_tokens=max_tokens,
            priority=priority,
            dedupe=dedupe,
            when_inactive=when_inactive,
        )
        if not wait:
            print_json(made) if as_json else print(made.job_id)
            return
        job = follow(server, made.job_id)
    _show(job, as_json=as_json)
    end_with(job)


@app.command()
def show(
    job_id: Annotated[str, typer.Argument(help="An eval job's id.")], host: Host = None, as_json: AsJson = False
) -> None:
    """An eval's result so far."""
    with server_at(host) as server:
        job = server.get_eval_job(job_id)
    _show(job, as_json=as_json)


@app.command()
def report(
    job_id: Annotated[str, typer.Argument(help="An eval job's id.")],
    out: Out = None,
    wanted: Format = None,
    host: Host = None,
) -> None:
    """An eval that is done as one file for people: HTML with its charts inside, or Markdown."""
    with server_at(host) as server:
        written = server.eval_report(job_id, format_for(out, wanted))
    deliver(written, out)


@app.command()
def export(
    job_id: Annotated[str, typer.Argument(help="An eval job's id.")],
    form: Annotated[
        Literal["inspect", "lm_eval", "lm_eval_samples"], typer.Option("--format", help="Whose file it is to be.")
    ] = "inspect",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write to this file; default: stdout.")] = None,
    host: Host = None,
) -> None:
    """An eval that is done as a file of inspect-ai or lm-eval."""
    with server_at(host) as server:
        written = server.export_eval(job_id, form)
    deliver(written, out)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="An inspect-ai log in JSON, or lm-eval's samples_….jsonl.")],
    model: Annotated[str, typer.Option(help="The id of the model that was asked.")],
    form: Annotated[Literal["inspect", "lm_eval"], typer.Option("--format", help="Whose file it is.")],
    name: Annotated[str, typer.Option(help="What to call it.")] = "imported",
    metric: Annotated[str | None, typer.Option(help="Which of its metrics counts; default: its first one.")] = None,
    host: Host = None,
    as_json: AsJson = False,
) -> None:
    """Take in a run of another harness, to compare it with evals of ours."""
    try:
        log = file.read_bytes()
    except OSError as error:
        stop(f"{file} cannot be read: {error.strerror}.", EXIT_REFUSED)
    with server_at(host) as server:
        made = server.import_eval(log, model, form, name, metric)
    print_json(made) if as_json else print(made.job_id)


@app.command()
def task(
    file: Annotated[
        str, typer.Argument(help="A task file in the server's tasks/: .yaml of lm-eval, .py of inspect-ai.")
    ],
    model: Annotated[str, typer.Option(help="A model's id, or active.")] = "active",
    name: Annotated[str, typer.Option(help="What to call it.")] = "cli",
    of_file: Annotated[str | None, typer.Option("--task", help="Which task of a file of inspect-ai.")] = None,
    arg: Annotated[
        list[str] | None, typer.Option(help="key=value for a task of inspect-ai; may be given again.")
    ] = None,
    metric: Annotated[str | None, typer.Option(help="Which score counts; default: the first one.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="lm-eval asks chat turns.")] = False,
    max_samples: Annotated[int | None, typer.Option(help="At most so many samples.")] = None,
    num_fewshot: Annotated[int | None, typer.Option(help="Worked examples in a prompt (lm-eval).")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the harness.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer, in tokens.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Of the answers.")] = None,
    priority: Annotated[int, typer.Option(help="Higher starts first.")] = 0,
    wait: Annotated[bool, typer.Option(help="Follow the job to its end.")] = True,
    host: Host = None,
    as_json: AsJson = False,
) -> None:
    """Run a task file of lm-eval or inspect-ai as an eval job and follow it; exit code 1 unless it is done."""
    job = eval_tasks.run_task(
        file,
        model=model,
        name=name,
        task=of_file,
        args=arg or [],
        metric=metric,
        chat=chat,
        host=host,
        wait=wait,
        as_json=as_json,
        max_samples=max_samples,
        num_fewshot=num_fewshot,
        seed=seed,
        max_tokens=max_tokens,
        temperature=temperature,
        priority=priority,
    )
    if job is not None:
        _show(job, as_json=as_json)
        end_with(job)


app.command()(eval_compare.compare)
app.command("tasks")(eval_tasks.list_tasks)
app.command("install-harness")(eval_tasks.install_harness)


@app.command()
def history(
    dataset: Annotated[str, typer.Argument(help="A dataset's name in datasets/.")],
    host: Host = None,
    as_json: AsJson = False,
) -> None:
    """Results on a dataset, by training step."""
    with server_at(host) as server:
        told = server.eval_history(dataset)
    if as_json:
        print_json(told)
        return
    columns = ["step", "model", "accuracy", "95 %", "samples", "job"]
    table(dataset, columns, [_point(point) for point in told], none=f"No evals on {dataset}.")


def _show(job: Job, *, as_json: bool) -> None:
    if as_json:
        print_json(job)
        return
    result = job.result or {}
    shown = [(key, _number(result[key])) for key in _SHOWN if result.get(key) is not None]
    facts(job.id, [("model", job.model_id), ("status", job.status), *shown, ("error", job.error)])


def _point(point: EvalPoint) -> list[str]:
    interval = point.get("accuracy_ci95")
    shown = (point.step, point.model_id, point.accuracy, interval, point.get("total_samples"), point.job_id)
    return [_number(value) for value in shown]


def _number(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return " to ".join(_number(part) for part in value)
    return f"{value:.4f}" if isinstance(value, float) else str(value)
