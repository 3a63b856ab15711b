"""`stepserve models`: the registry."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from stepserve.client.commands import model_diff
from stepserve.client.commands.engine_args import Devices, EngineArgs, engine_wish
from stepserve.client.progress import bytes_bar
from stepserve.client.results import Activation, Model
from stepserve.client.terminal import (
    AsJson,
    Host,
    bytes_in_words,
    end_with,
    facts,
    follow,
    print_json,
    server_at,
    table,
)
from stepserve.client.words import duration, moment

app = typer.Typer(no_args_is_help=True, help="List, register, push, activate and remove models.")

ModelId = Annotated[str, typer.Argument(help="A model's id.")]
InFlightOption = Annotated[
    Literal["finish", "keep", "abort"], typer.Option(help="What becomes of requests that are being answered.")
]
BaseModelOption = Annotated[str | None, typer.Option(help="Of an adapter: the id of the model that it adapts.")]
TemplateOption = Annotated[
    str | None,
    typer.Option(
        help="For a checkpoint without a chat template: chatml, plain, alpaca, a file in templates/ on the server, a"
        " file here, or Jinja text."
    ),
]
MethodOption = Annotated[Literal["auto", "in_place", "blue_green", "restart"], typer.Option(help="How to switch.")]


@app.command("list")
def list_models(host: Host = None, as_json: AsJson = False) -> None:
    """Every model, newest first."""
    with server_at(host) as server:
        models = server.list_models()
    if as_json:
        print_json(models)
        return
    columns = ["", "model", "step", "size", "source", "tags", "registered"]
    table("", columns, [_row(model) for model in models], none="No models are registered.")


@app.command()
def register(
    model_id: ModelId,
    source: Annotated[str, typer.Option(help="Where it comes from.")] = "cli",
    tags: Annotated[str, typer.Option(help="Tags, separated by commas.")] = "",
    path: Annotated[str | None, typer.Option(help="The folder on the server (default: models/<id>).")] = None,
    step: Annotated[int | None, typer.Option(help="The training step.")] = None,
    activate: Annotated[bool, typer.Option(help="Switch to it at once.")] = False,
    replace: Annotated[bool, typer.Option(help="In place of what has this id.")] = False,
    base_model: BaseModelOption = None,
    chat_template: TemplateOption = None,
    engine_arg: EngineArgs = None,
    device: Devices = None,
    keep_alive: Annotated[
        str | None, typer.Option(help="How long it stays loaded when nobody uses it: 300, 5m, 0, or -1 for ever.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would come to, and change nothing.")] = False,
    host: Host = None,
    as_json: AsJson = False,
) -> None:
    """Make a folder that lies on the server a model."""
    with server_at(host) as server:
        registered = server.register_model(
            model_id,
            source,
            tags,
            path=path,
            step=step,
            activate=activate,
            replace=replace,
            dry_run=dry_run,
            base_model=base_model,
            chat_template=_template(chat_template),
            **engine_wish(engine_arg, device),
            keep_alive=keep_alive,
        )
    if as_json:
        print_json(registered)
        return
    is_now = "would be" if dry_run and not registered.existing else "is"
    print(f"{registered.id} {is_now} {'already ' if registered.existing else ''}registered, {registered.digest}.")
    _show_warnings(registered.warnings)
    if registered.removal is not None:
        _show_removal(registered.removal, dry_run=dry_run)
    if registered.activation is not None:
        _show_switch(registered.activation)


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(help="The checkpoint's folder, here.")],
    model_id: Annotated[
        str | None, typer.Argument(help="The id to register it as (default: the folder's name).")
    ] = None,
    tags: Annotated[str, typer.Option(help="Tags, separated by commas.")] = "",
    step: Annotated[int | None, typer.Option(help="The training step.")] = None,
    activate: Annotated[bool, typer.Option(help="Switch to it at once.")] = False,
    replace: Annotated[bool, typer.Option(help="In place of what has this id.")] = False,
    base_model: BaseModelOption = None,
    chat_template: TemplateOption = None,
    host: Host = None,
    as_json: AsJson = False,
) -> None:
    """Upload a checkpoint, only what the server lacks, and register it; the same again goes on where it stopped."""
    again = "Stopped; the same command goes on where this one stopped."
    with server_at(host, interrupted=again) as server, bytes_bar(folder.name) as show:
        pushed = server.push_checkpoint(
            folder,
            model_id or folder.resolve().name,
            tags=tags,
            step=step,
            activate=activate,
            replace=replace,
            base_model=base_model,
            chat_template=_template(chat_template),
            on_progress=show,
        )
    registered = pushed.registration
    if as_json:
        sent = {"total_bytes": pushed.total_bytes, "sent_bytes": pushed.sent_bytes, "seconds": round(pushed.seconds, 3)}
        print_json(registered.as_json() | sent)
        return
    sent_of = f"{bytes_in_words(pushed.sent_bytes)} of {bytes_in_words(pushed.total_bytes)} sent"
    print(f"{registered.id} is registered, {registered.digest}; {sent_of} in {pushed.seconds:.1f} s.")
    _show_warnings(registered.warnings)
    if registered.activation is not None:
        _show_switch(registered.activation)


@app.command()
def activate(
    model_id: ModelId,
    in_flight: InFlightOption = "finish",
    method: MethodOption = "auto",
    timeout_s: Annotated[float, typer.Option(help="How long requests in flight may take.")] = 300.0,
    host: Host = None,
    as_json: AsJson = False,
) -> None:
    """Switch to a model while requests run: they wait, or notice nothing."""
    with server_at(host, interrupted="Not waiting any longer; the switch goes on.") as server:
        switched = server.set_active_model(model_id, in_flight=in_flight, method=method, timeout_s=timeout_s)
    print_json(switched) if as_json else _show_switch(switched)


@app.command()
def rollback(host: Host = None, as_json: AsJson = False) -> None:
    """Switch back to the model that was active before."""
    with server_at(host, interrupted="Not waiting any longer; the switch goes on.") as server:
        switched = server.roll_back()
    print_json(switched) if as_json else _show_switch(switched)


@app.command()
def rm(
    model_id: ModelId,
    files: Annotated[bool, typer.Option(help="Remove what the server put under models/ for it too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and remove nothing.")] = False,
    host: Host = None,
    as_json: AsJson = False,
) -> None:
    """Forget a model that is not active and that no job uses. Files that the server did not place are left."""
    with server_at(host) as server:
        removed = server.delete_model(model_id, files=files, dry_run=dry_run)
    if as_json:
        print_json(removed)
        return
    print(f"{model_id} {'would be' if dry_run else 'is'} removed{', with its files' if removed['files'] else ''}.")
    if removed.get("removal"):
        _show_removal(removed["removal"], dry_run=dry_run)


app.command()(model_diff.diff)


@app.command()
def pull(
    model: Annotated[str, typer.Argument(help="A repository of the hub, such as Qwen/Qwen3-0.6B.")],
    quantize: Annotated[str | None, typer.Option(help="auto, q4, q8, fp16 or no.")] = None,
    init: Annotated[bool, typer.Option(help="Switch to it when it is there.")] = False,
    chat_template: TemplateOption = None,
    engine_arg: EngineArgs = None,
    wait: Annotated[bool, typer.Option(help="Follow the download to its end.")] = True,
    host: Host = None,
    as_json: AsJson = False,
) -> None:
    """Have the server download a model from its hub."""
    wishes: dict[str, Any] = {"quantize": quantize, "init": init or None, "chat_template": _template(chat_template)}
    more = {name: wish for name, wish in wishes.items() if wish is not None} | engine_wish(engine_arg)
    with server_at(host, interrupted="Stopped watching; the download goes on.") as server:
        made = server.pull_model(model, **more)
        if not wait:
            print_json(made) if as_json else print(made.job_id)
            return
        job = follow(server, made.job_id)
    if as_json:
        print_json(job)
    else:
        _show_warnings((job.result or {}).get("warnings", []))
    end_with(job)


def _template(named: str | None) -> str | None:
    """A file that lies here is sent as its text; the rest is the server's to say."""
    if named is None or "{" in named or not Path(named).is_file():
        return named
    try:
        return Path(named).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{named} cannot be read: {error}", param_hint="--chat-template") from error


def _show_warnings(warnings: Sequence[str]) -> None:
    for warning in warnings:
        print(f"Warning: {warning}.")


def _show_removal(removal: dict[str, Any], *, dry_run: bool) -> None:
    """What goes of a model's folder, and why the rest of it does not."""
    if removal["files"] and (dry_run or removal["left"]):
        went = "would go" if dry_run else "are gone"
        size = bytes_in_words(removal["size_bytes"])
        print(f"{len(removal['files'])} files ({size}) of {removal['folder']} {went}.")
    if removal["note"]:
        print(f"{removal['note']}.")


def _show_switch(switched: Activation) -> None:
    proof = switched.proof or {}
    paused, total, waited = (
        duration(None if ms is None else ms / 1000)
        for ms in (switched.paused_ms, switched.total_ms, switched.reference_wait_ms or None)
    )
    facts(
        f"{switched.id} is active",
        [("before", switched.previous), ("method", switched.method), ("paused", paused), ("in all", total),
         ("of it for the reference", waited), ("proof", proof.get("kind"))],
    )  # fmt: skip


def _row(model: Model) -> list[str]:
    marks = ("*" if model.is_active else "") + ("" if model.loaded or not model.is_active else "?")
    step = "" if model.step is None else str(model.step)
    return [
        marks,
        model.id,
        step,
        bytes_in_words(model.size_bytes),
        model.source or "",
        ", ".join(model.tags),
        moment(model.created_at),
    ]
