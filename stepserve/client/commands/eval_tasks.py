"""`stepserve eval task …`: task files of lm-eval and inspect-ai."""

import subprocess
import sys
from typing import Annotated, Any, Literal

import typer

from stepserve.client.commands.config import settings_here
from stepserve.client.results import Job
from stepserve.client.terminal import AsJson, Host, follow, pair, print_json, server_at, table

_PROGRAM = "evals.harness"


def run_task(
    file: str,
    *,
    model: str,
    name: str,
    task: str | None,
    args: list[str],
    metric: str | None,
    chat: bool,
    host: str | None,
    wait: bool,
    as_json: bool,
    **options: float | None,
) -> Job | None:
    """Makes the job, and follows it where that is wanted."""
    wanted: dict[str, Any] = {
        "file": file,
        "name": task,
        "args": dict(pair("--arg", text) for text in args),
        "metric": metric,
    }
    wanted = {key: value for key, value in wanted.items() if value} | ({"chat": True} if chat else {})
    more: dict[str, Any] = {key: value for key, value in options.items() if value is not None}
    with server_at(host, interrupted="Stopped watching; the job goes on.") as server:
        made = server.eval_task(model, name, wanted, **more)
        if wait:
            return follow(server, made.job_id)
    print_json(made) if as_json else print(made.job_id)
    return None


def list_tasks(host: Host = None, as_json: AsJson = False) -> None:
    """The task files that can be run there, and which harnesses are installed."""
    with server_at(host) as server:
        told = server.list_eval_tasks()
    if as_json:
        print_json(told)
        return
    table("", ["file", "harness"], [[one["file"], one["harness"]] for one in told["files"]], none="No task files.")
    for name, one in told["harnesses"].items():
        print(f"{name} {one['version']}: {'installed' if one['installed'] else 'not installed'}")
    print(f"They are run by: {told['run_by']} (setting task_files.run_by)")


def install_harness(
    harness: Annotated[Literal["lm_eval", "inspect"], typer.Argument(help="Which one.")],
) -> None:
    """Install lm-eval or inspect-ai for the server of this machine: some 85 packages in an environment of their own."""
    folder = settings_here().layout.harnesses
    ended = subprocess.run([sys.executable, "-m", _PROGRAM, str(folder), harness], check=False)
    if ended.returncode:
        raise typer.Exit(ended.returncode)
