"""`stepserve traffic` and `stepserve feedback`: what is kept of requests and answers, and what people say of them."""

import sys
from typing import Annotated, Any, Literal

import typer

from stepserve.client.terminal import AsJson, Host, bytes_in_words, facts, print_json, server_at, table
from stepserve.client.words import moment

app = typer.Typer(no_args_is_help=True, help="Requests and answers that are kept to learn from.")

KeyId = Annotated[str | None, typer.Option("--key", help="Of this key (an administrator's option).")]
RequestId = Annotated[str, typer.Argument(help="The answer's header x-request-id.")]


def feedback(
    request_id: RequestId,
    opinion: Annotated[Literal["good", "bad"], typer.Argument(help="How the answer was.")],
    correction: Annotated[
        str | None, typer.Option(help="What would have been the right answer; - reads it from a pipe.")
    ] = None,
    key_id: KeyId = None,
    host: Host = None,
    as_json: AsJson = False,
) -> None:
    """Say whether an answer was good, and what would have been right."""
    if correction == "-":
        correction = sys.stdin.read().removesuffix("\n")
    with server_at(host) as server:
        noted = server.give_feedback(request_id, 1 if opinion == "good" else -1, correction, key_id=key_id)
    print_json(noted) if as_json else print(f"{noted['request_id']}: {_opinion(noted)}")


@app.command()
def consent(
    keep: Annotated[
        bool | None, typer.Option("--give/--withdraw", help="From now on; what is kept stays until it is deleted.")
    ] = None,
    key_id: KeyId = None,
    host: Host = None,
    as_json: AsJson = False,
) -> None:
    """Whether the key's traffic may be kept: look, give or withdraw consent."""
    with server_at(host) as server:
        shown = server.traffic_consent(key_id) if keep is None else server.set_traffic_consent(keep=keep, key_id=key_id)
    if as_json:
        print_json(shown)
        return
    kept, server_has = shown["kept"], shown["server"]
    pairs = [
        ("consent", "given" if shown["keep"] else "not given"),
        ("kept", f"{kept['requests']} requests, {bytes_in_words(kept['size_bytes'])}"),
        ("the server keeps", f"{server_has['share']:.0%} of such requests" if server_has["on"] else "nothing"),
    ]
    facts(shown["key_id"], pairs)
    rows = [[one["at"], "given" if one["keep"] else "withdrawn", one["by"]] for one in shown["history"]]
    table("History", ["at", "consent", "by"], rows, none="Nobody has consented.")


@app.command("list")
def list_(
    rated: Annotated[bool | None, typer.Option("--rated/--unrated", help="With feedback, or without.")] = None,
    model: Annotated[str | None, typer.Option(help="Answered by this model.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many to show.")] = 20,
    key_id: KeyId = None,
    host: Host = None,
    as_json: AsJson = False,
) -> None:
    """What is kept, newest first; an administrator sees all keys."""
    with server_at(host) as server:
        shown = server.list_traffic(key_id, model, rated=rated, limit=limit)
    if as_json:
        print_json(shown)
        return
    rows = [
        [one["request_id"], one["key_id"], moment(one["answered_at"]), one["model"], _opinion(one["feedback"])]
        for one in shown["requests"]
    ]
    table("", ["request", "key", "answered", "model", "feedback"], rows, none="Nothing is kept.")


@app.command()
def show(request_id: RequestId, key_id: KeyId = None, host: Host = None) -> None:
    """One request and its answer, as JSON."""
    with server_at(host) as server:
        print_json(server.get_traffic(request_id, key_id))


@app.command()
def delete(
    request_id: Annotated[str | None, typer.Argument(help="Only this request.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All that is kept of the key.")] = False,
    key_id: KeyId = None,
    host: Host = None,
    as_json: AsJson = False,
) -> None:
    """Delete what is kept of a key: one request, or all. Datasets that were made of it stay."""
    if every == (request_id is not None):
        raise typer.BadParameter("give a request's id, or --all")
    with server_at(host) as server:
        gone = server.delete_traffic(request_id, key_id)
    print_json(gone) if as_json else print(f"{gone['deleted']} deleted of {gone['key_id']}.")


@app.command()
def dataset(
    name: Annotated[str, typer.Argument(help="The dataset's name, such as corrections.jsonl.")],
    kind: Annotated[
        Literal["eval", "dpo", "kto"],
        typer.Option(help="For evals, or TRL's preference or unpaired preference format."),
    ],
    prompts: Annotated[
        Literal["chat", "text"], typer.Option(help="Conversations, or texts of /v1/completions.")
    ] = "chat",
    model: Annotated[str | None, typer.Option(help="Of this model's answers alone.")] = None,
    replace: Annotated[bool, typer.Option(help="Put it in the place of one of that name.")] = False,
    key_id: KeyId = None,
    host: Host = None,
    as_json: AsJson = False,
) -> None:
    """Make a dataset of the answers with feedback."""
    with server_at(host) as server:
        made = server.make_traffic_dataset(name, kind, prompts=prompts, model=model, key_id=key_id, replace=replace)
    print_json(made) if as_json else print(f"{made['name']}: {bytes_in_words(made['size_bytes'])}, {made['digest']}")


def _opinion(feedback: dict[str, Any] | None) -> str:
    if feedback is None:
        return ""
    return ("good" if feedback["rating"] > 0 else "bad") + (", corrected" if feedback["correction"] is not None else "")
