"""`stepserve promote`: whether a candidate may take the place of what serves, and reports of that."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from stepserve.client.commands.default_command import RunsByDefault
from stepserve.client.commands.reports import Format, Out, deliver, format_for
from stepserve.client.junit import junit_of
from stepserve.client.results import Promotion
from stepserve.client.terminal import (
    EXIT_FAILED,
    EXIT_NOT_PROMOTED,
    EXIT_REFUSED,
    EXIT_UNDECIDED,
    AsJson,
    Host,
    end_with,
    facts,
    follow,
    print_json,
    server_at,
    stop,
    stop_without_server,
    table,
)

app = typer.Typer(cls=RunsByDefault, help="Let a candidate earn the switch. Without a command: `run`.")

_EXITS = {"promoted": 0, "refused": EXIT_NOT_PROMOTED, "undecided": EXIT_UNDECIDED, "rolled_back": EXIT_FAILED}


@app.command("run")
def promote(
    candidate: Annotated[str | None, typer.Argument(help="The id of the model that is to be promoted.")] = None,
    suite: Annotated[
        list[str] | None,
        typer.Option("--suite", help="DATASET:METRIC, or a JSON file with a list of such; may be given again."),
    ] = None,
    baseline: Annotated[str, typer.Option(help="active, a model's id, or that of an eval job.")] = "active",
    test: Annotated[
        Literal["superior", "non_inferior"], typer.Option(help="Whether it has to be better, or only no worse.")
    ] = "superior",
    margin: Annotated[float, typer.Option(help="How much worse still counts as no worse.")] = 0.02,
    alpha: Annotated[float, typer.Option(help="The chance to promote one that is not better, or is worse.")] = 0.05,
    guard: Annotated[
        list[str] | None, typer.Option("--guard", help="GUARD=LIMIT, such as truncated=0.02; may be given again.")
    ] = None,
    max_samples: Annotated[int | None, typer.Option(help="At most so many samples of each dataset.")] = None,
    sequential: Annotated[bool, typer.Option(help="Stop as soon as it is clear.")] = True,
    activate: Annotated[bool, typer.Option("--activate", help="Switch to the candidate when it is promoted.")] = False,
    canary: Annotated[
        list[str] | None,
        typer.Option(
            "--canary",
            help="KEY=VALUE of a canary before the switch, such as share=0.05 or judge.model=ID; may be given again.",
        ),
    ] = None,
    wait: Annotated[bool, typer.Option(help="Follow the promotion to its decision.")] = True,
    junit: Annotated[Path | None, typer.Option(help="Write the decision as JUnit XML too, for a CI system.")] = None,
    replay: Annotated[
        Path | None,
        typer.Option(help="Work the decision out again from the files in runs/promotion/<job id>; asks no server."),
    ] = None,
    host: Host = None,
    as_json: AsJson = False,
) -> None:
    """Compare a candidate with a baseline, pair by pair. Exit code 0: promoted, 5: refused, 6: undecided."""
    if replay is not None:
        _replay(replay, as_json=as_json)
    if candidate is None or not suite:
        stop("A candidate and at least one --suite are needed.", EXIT_REFUSED)
    more: dict[str, Any] = {
        "baseline": baseline,
        "rule": {"test": test, "margin": margin, "alpha": alpha},
        "guards": dict(_guard(text) for text in guard or []),
        "sequential": sequential,
        "on_pass": "activate" if activate else "notify",
    }
    if canary:
        more["canary"] = _canary(canary)
    if max_samples is not None:
        more["max_samples"] = max_samples
    items = [item for text in suite for item in _items(text)]
    with server_at(host, interrupted="Stopped watching; the promotion goes on.") as server:
        made = server.promote(candidate, items, **more)
        if not wait:
            print_json(made) if as_json else print(made.job_id)
            return
        job = follow(server, made.job_id)
        if job.status != "done":
            end_with(job)
        decided = server.get_promotion(made.job_id)
    if junit is not None:
        _write(junit, junit_of(decided))
    _show(decided, as_json=as_json)
    raise typer.Exit(_EXITS[decided.decision or "undecided"])


@app.command()
def show(
    job_id: Annotated[str, typer.Argument(help="A promotion's job id.")], host: Host = None, as_json: AsJson = False
) -> None:
    """How a promotion stands, or what was decided; while its canary runs, what that sees."""
    with server_at(host) as server:
        promotion = server.get_promotion(job_id)
    if as_json or promotion.decision is not None:
        _show(promotion, as_json=as_json)
        return
    done, total = promotion.progress.done, promotion.progress.total
    asked = f"{done} of {total} at most" if total else None
    told = [("candidate", promotion.model_id), ("status", promotion.status), ("waits for", promotion.waiting_for)]
    facts(job_id, [*told, ("questions", asked), ("error", promotion.error)])
    _show_canary(promotion)


@app.command()
def report(
    job_id: Annotated[str, typer.Argument(help="A promotion's job id.")],
    out: Out = None,
    wanted: Format = None,
    host: Host = None,
) -> None:
    """A promotion that is decided as one file for people: HTML with its charts inside, or Markdown."""
    with server_at(host) as server:
        written = server.promotion_report(job_id, format_for(out, wanted))
    deliver(written, out)


def _write(file: Path, content: str) -> None:
    try:
        file.write_text(content, encoding="utf-8")
    except OSError as error:
        stop(f"--junit: {file} cannot be written: {error.strerror}.", EXIT_REFUSED)


def _items(text: str) -> list[dict[str, Any]]:
    if not text.endswith(".json"):
        dataset, colon, metric = text.rpartition(":")
        return [{"dataset_ref": dataset if colon else text, "metric": metric if colon else "accuracy"}]
    try:
        content = json.loads(Path(text).read_text())
    except OSError as error:
        stop(f"--suite: {text} cannot be read: {error.strerror}.", EXIT_REFUSED)
    except ValueError as error:
        stop(f"--suite: {text} is not valid JSON: {error}.", EXIT_REFUSED)
    if not isinstance(content, list) or not all(isinstance(item, dict) for item in content):
        stop(f"--suite: {text} is not a list of objects.", EXIT_REFUSED)
    return content


def _guard(text: str) -> tuple[str, float]:
    name, _, limit = text.partition("=")
    try:
        return name, float(limit)
    except ValueError:
        stop(f"--guard {text}: not GUARD=LIMIT with a number.", EXIT_REFUSED)


def _canary(texts: list[str]) -> dict[str, Any]:
    """What begins with `judge.` is of the judge. Its rubric has a line for each time that it is given."""
    canary: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            stop(f"--canary {text}: not KEY=VALUE.", EXIT_REFUSED)
        if not key.startswith("judge."):
            canary[key] = _number_or_text(value)
            continue
        judge, name = canary.setdefault("judge", {}), key.removeprefix("judge.")
        if name == "rubric":
            judge.setdefault(name, []).append(value)
        else:
            judge[name] = value if name in {"model", "template"} else _number_or_text(value)
    return canary


def _number_or_text(value: str) -> float | str:
    try:
        return float(value)
    except ValueError:
        return value


def _replay(folder: Path, *, as_json: bool) -> NoReturn:
    """Exit code 1 where the decision, or a file that it was made of, is not what decision.json says."""
    if importlib.util.find_spec("control") is None:
        stop_without_server(ModuleNotFoundError(name="control"))
    ended = subprocess.run(
        [sys.executable, "-m", "control.promotion.replay", str(folder)], stdout=subprocess.PIPE, text=True, check=False
    )
    if ended.returncode:
        raise typer.Exit(EXIT_REFUSED)
    decided = json.loads(ended.stdout)
    if as_json:
        print_json(decided)
    else:
        _say(decided["decision"], decided["reasons"])
    if differs := decided["differs"]:
        stop("Not as it was decided: " + "; ".join(differs) + ".", EXIT_FAILED)
    raise typer.Exit(_EXITS[decided["decision"]])


def _show(decided: Promotion, *, as_json: bool) -> None:
    if as_json:
        print_json(decided)
        return
    _say(decided.decision or "", decided.reasons or [])
    columns = ["dataset", "metric", "baseline", "candidate", "difference", "interval", "p", "pairs"]
    table("", columns, [_row(metric) for metric in decided.per_metric or []])
    items = decided.items or []
    if items:
        rows = [[item["id"], item["question"], item["target"], item["baseline"], item["candidate"]] for item in items]
        table("Questions that decided", ["id", "question", "target", "baseline", "candidate"], rows[:10])
    _show_canary(decided)
    if decided.activation is not None:
        error = decided.activation.get("error")
        print(f"Switch: {decided.activation['status']}{f' ({error})' if error else ''}.")


def _show_canary(promotion: Promotion) -> None:
    canary = promotion.canary
    if canary is None:
        return
    arms = [(name, canary[key]) for name, key in (("candidate", "candidate"), ("active model", "active"))]
    columns = ["", "requests", "errors", "latency (s)", "tokens", "loss"]
    keys = ("requests", "errors", "latency_s", "tokens", "loss")
    rows = [[name, *(_number(arm.get(key)) for key in keys)] for name, arm in arms]
    rows.append(["ratio", "", "", *(_number(canary.get(key)) for key in ("latency_ratio", "tokens_ratio")), ""])
    table(f"Canary, {canary['state']}, {canary['elapsed_s']:.0f} s", columns, rows)
    guards = [
        [guard["guard"], *(_number(guard[key]) for key in ("value", "limit")), f"{100 * guard['evidence']:.0f} %"]
        for guard in canary.get("guards", [])
    ]
    table("", ["guard", "value", "limit", "evidence that would end it"], guards)
    if (judged := canary.get("judge")) is not None:
        said = [
            ("pairs of answers", str(judged["pairs"])),
            ("good, candidate", _number(judged["candidate_good"])),
            ("good, active model", _number(judged["active_good"])),
            ("without a verdict", str(judged["unread"])),
            ("trouble", judged["trouble"]),
        ]
        facts("The judge", said)


def _say(decision: str, reasons: list[str]) -> None:
    print(f"{decision.replace('_', ' ').capitalize()}.")
    for reason in reasons:
        print(f"- {reason}.")


def _row(metric: dict[str, Any]) -> list[str]:
    interval = " to ".join(_number(end) for end in metric["interval"] or [])
    used = f"{metric['samples_used']} of {metric['samples_planned']}"
    values = [_number(metric[key]) for key in ("a", "b", "difference")]
    return [metric["dataset"], metric["metric"], *values, interval, _number(metric["p"]), used]


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else str(value)
