"""`stepserve jobs`: look at the queue and change it."""

from typing import Annotated

import typer

from stepserve.client.results import Job, MadeJob
from stepserve.client.terminal import AsJson, Host, end_with, follow, print_json, server_at, table
from stepserve.client.words import duration, moment

app = typer.Typer(no_args_is_help=True, help="Look at jobs, watch, cancel and retry them.")

JobId = Annotated[str, typer.Argument(help="A job's id, such as eval_20251122_053000_k3f9.")]


@app.command("list")
def list_jobs(
    job_type: Annotated[str | None, typer.Option("--type", help="Only jobs of this type.")] = None,
    status: Annotated[str | None, typer.Option(help="pending, running, done, failed or cancelled.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many, the newest.")] = 20,
    host: Host = None,
    as_json: AsJson = False,
) -> None:
    """The newest jobs."""
    with server_at(host) as server:
        jobs = server.list_jobs(job_type, status, limit)
    if as_json:
        print_json(jobs)
        return
    columns = ["job", "model", "status", "progress", "created", "remark"]
    table("", columns, [_row(job) for job in jobs], none="No jobs.")


@app.command()
def watch(job_id: JobId, host: Host = None, as_json: AsJson = False) -> None:
    """Follow a job to its end; exit code 1 unless it is done."""
    with server_at(host, interrupted="Stopped watching; the job goes on.") as server:
        job = follow(server, job_id)
    if as_json:
        print_json(job)
    end_with(job)


@app.command()
def cancel(job_id: JobId, host: Host = None, as_json: AsJson = False) -> None:
    """Stop a job; what it has done is kept."""
    with server_at(host) as server:
        _show(server.cancel_job(job_id), as_json=as_json)


@app.command()
def retry(job_id: JobId, host: Host = None, as_json: AsJson = False) -> None:
    """Put a failed or cancelled job back into the queue; it goes on where it stopped."""
    with server_at(host) as server:
        _show(server.retry_job(job_id), as_json=as_json)


def _show(changed: MadeJob, *, as_json: bool) -> None:
    print_json(changed) if as_json else print(f"{changed.job_id} is {changed.status}.")


def _row(job: Job) -> list[str]:
    progress = job.progress
    done = f"{progress.done}/{progress.total}" if progress.total is not None else ""
    if progress.eta_s is not None:
        done += f", {duration(progress.eta_s)} left"
    waiting = f"waits for {job.waiting_for}" if job.waiting_for else ""
    return [job.id, job.model_id or "", job.status, done, moment(job.created_at), job.error or waiting]
