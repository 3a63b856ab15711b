"""The `stepserve` command. A group is a file in client/commands with a Typer `app`, and one line here."""

from typing import Annotated

import typer

from stepserve import __version__
from stepserve.client.commands import (
    chat,
    config,
    datagen,
    datasets,
    db,
    doctor,
    evals,
    fleet,
    gc,
    gpu,
    jobs,
    join,
    keys,
    logs,
    models,
    node,
    plan,
    policy,
    power,
    promote,
    status,
    top,
    traffic,
    up,
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command()(up.up)
app.command()(join.join)
app.command()(node.node)
app.command()(status.status)
app.command()(top.top)
app.add_typer(models.app, name="models")
app.add_typer(evals.app, name="eval")
app.add_typer(datasets.app, name="datasets")
app.add_typer(datagen.app, name="datagen")
app.add_typer(promote.app, name="promote")
app.add_typer(policy.app, name="policy")
app.command()(traffic.feedback)
app.add_typer(traffic.app, name="traffic")
app.add_typer(jobs.app, name="jobs")
app.add_typer(fleet.app, name="fleet")
app.add_typer(keys.app, name="keys")
app.add_typer(config.app, name="config")
app.add_typer(db.app, name="db")
app.command()(chat.chat)
app.command()(gpu.gpu)
app.command()(power.power)
app.command()(logs.logs)
app.command()(doctor.doctor)
app.command()(gc.gc)
app.command()(plan.plan)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Serve, switch, evaluate and feed the checkpoints of a training run."""


def main() -> None:
    app()
