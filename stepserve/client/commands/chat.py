"""`stepserve chat`: talk to a model in the terminal."""

import sys
from typing import Annotated, Any

import typer

from stepserve.client.client import Client
from stepserve.client.terminal import Host, server_at


def chat(
    question: Annotated[str | None, typer.Argument(help="Ask this and end; without it, a conversation.")] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="A model's id, or active.")] = "active",
    system: Annotated[str | None, typer.Option(help="A system prompt.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer, in tokens.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0: always the likeliest token.")] = None,
    host: Host = None,
) -> None:
    """Chat, each answer as it is generated; Ctrl-D ends. A question may also come from a pipe."""
    sampling = {"max_tokens": max_tokens, "temperature": temperature}
    more = {name: value for name, value in sampling.items() if value is not None}
    messages = [{"role": "system", "content": system}] if system else []
    with server_at(host, interrupted="") as server:
        if question is None and not sys.stdin.isatty():
            question = sys.stdin.read().strip()
        if question is not None:
            _answer(server, [*messages, _said(question)], model, more)
            return
        while (line := _line()) is not None:
            if line.strip():
                messages.append(_said(line))
                messages.append({"role": "assistant", "content": _answer(server, messages, model, more)})


def _answer(server: Client, messages: list[dict[str, str]], model: str, more: dict[str, Any]) -> str:
    pieces = []
    for piece in server.chat(messages, model, **more):
        pieces.append(piece)
        print(piece, end="", flush=True)
    print()
    return "".join(pieces)


def _line() -> str | None:
    try:
        return input("> ")
    except EOFError:
        print()
        return None


def _said(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}
