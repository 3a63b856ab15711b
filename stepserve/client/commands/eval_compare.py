"""`stepserve eval compare`: two evals in a sentence, and the questions that changed with both answers."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from stepserve.client import comparison
from stepserve.client.client import Client
from stepserve.client.terminal import AsJson, Host, facts, print_json, server_at, table

_LONGEST = 200  # characters of a question or an answer


def compare(
    a: Annotated[str, typer.Argument(help="An eval job's id: before.")],
    b: Annotated[str, typer.Argument(help="Another's: after.")],
    show: Annotated[int, typer.Option(help="At most so many fixed and so many broken questions, with answers.")] = 5,
    host: Host = None,
    as_json: AsJson = False,
) -> None:
    """Two evals sample by sample: what was fixed, what was broken, and whether it can be chance."""
    with server_at(host) as server:
        compared = server.compare_evals(a, b)
        if as_json:
            print_json(compared)
            return
        changed = [
            (what, *one)
            for what, ids in (("fixed", compared.get("fixed_ids", [])), ("broken", compared.get("broken_ids", [])))
            for one in _answers(server, a, b, ids[: max(0, show)])
        ]
    print(comparison.sentence(compared))
    if said := comparison.doubt(compared):
        print(said)
    if compared["differs"]:
        print(f"The two runs differ in {', '.join(compared['differs'])}.")
    left_out = sum(compared["left_out"].values())
    facts(
        "",
        [
            ("questions", f"{compared['paired']:,}"),
            ("left out", left_out or None),
            ("clusters", compared["clusters"]),
            ("metric", compared["metric"]),
            (str(compared["a"]["model_id"]), _share(compared["mean_a"])),
            (str(compared["b"]["model_id"]), _share(compared["mean_b"])),
        ],
    )
    if changed:
        table("", ["", "question", "expected", "before", "after"], changed)


def _answers(server: Client, a: str, b: str, ids: Sequence[str]) -> list[tuple[str, str, str, str]]:
    """Question, reference and both answers, in the order of `ids`. Raises StepserveError."""
    if not ids:
        return []
    before, after = (
        {one["id"]: one for one in server.eval_samples(job, ids=ids, limit=len(ids))["samples"]} for job in (a, b)
    )
    return [
        (
            _cut(_question(after[name])),
            _cut(str(after[name]["target"])),
            _cut(_said(before[name])),
            _cut(_said(after[name])),
        )
        for name in ids
        if name in before and name in after
    ]


def _share(mean: float) -> str:
    return f"{100 * mean:.1f} %"


def _question(sample: dict[str, Any]) -> str:
    asked = sample["input"]
    return asked if isinstance(asked, str) else str(asked[-1]["content"]) if asked else ""


def _said(sample: dict[str, Any]) -> str:
    return str(sample["error"] or sample["prediction"])


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"
