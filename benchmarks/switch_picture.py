"""Two switches under load as a picture: `python -m benchmarks.switch_picture --out docs/images/switch.svg`.

A server of its own is asked by streams and by short requests all the time. It switches in place from an early demo
checkpoint to the last one, and back by blue/green. Every answer is compared with what the weights that it names answer
at rest; bars are the answers of a tenth of a second, coloured by those weights.
"""

import argparse
import asyncio
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import httpx

from benchmarks.processes import CHECKPOINT, MODEL_ID, stepserve
from benchmarks.switch_clients import Answer, Clients, activate, ask

EARLY = "demo-step-0300"
REST_S = 2.5
"""Load before the first switch, between the two, and after the second."""
BIN_S = 0.1
WIDTH, HEIGHT = 880, 330
LEFT, RIGHT, TOP, BOTTOM = 60, 20, 78, 262
COLOURS = ("#3b6fd4", "#e0803a")
INK, FAINT, PAPER = "#24292f", "#d8dee4", "#ffffff"


@dataclass(frozen=True, slots=True)
class Switch:
    """Times are `time.perf_counter`'s."""

    method: str
    began_s: float
    ended_s: float
    paused_ms: float


@dataclass(frozen=True, slots=True)
class Recording:
    """`models` maps a digest to the model's id, in the order in which they served."""

    models: dict[str, str]
    answers: Sequence[Answer]
    switches: Sequence[Switch]
    failed: int
    wrong: int
    clients: int


def record(streams: int, closed_loop: int) -> Recording:
    with tempfile.TemporaryDirectory(prefix="stepserve-bench-") as temporary:
        base = Path(temporary)
        shutil.copytree(CHECKPOINT.with_name("step-0300"), base / "models" / EARLY)
        with stepserve(base) as url, httpx.Client(base_url=url, timeout=600, trust_env=False) as client:
            client.post("/models/register", json={"id": EARLY, "source": "bench"}).raise_for_status()
            models, expected = {}, {}
            for model_id in (MODEL_ID, EARLY):
                activate(client, model_id, "in_place")
                digest, answer = ask(client)
                models[digest], expected[digest] = model_id, answer
            warm = Clients(url, expected, streams, closed_loop)
            asyncio.run(warm.run_for(2.0))
            clients = Clients(url, expected, streams, closed_loop)
            switches = asyncio.run(_switched(clients, client))
    tally = clients.tally
    order = dict(reversed(models.items()))
    return Recording(
        order, tally.answers, switches, len(tally.failures), len(tally.wrong), clients=streams + closed_loop
    )


async def _switched(clients: Clients, client: httpx.Client) -> list[Switch]:
    switches = asyncio.ensure_future(asyncio.to_thread(_switch_twice, client))
    await clients.run(switches)
    return await switches


def _switch_twice(client: httpx.Client) -> list[Switch]:
    switches = []
    for model_id, method in ((MODEL_ID, "in_place"), (EARLY, "blue_green")):
        time.sleep(REST_S)
        began_s = time.perf_counter()
        result = activate(client, model_id, method)
        switches.append(Switch(method, began_s, time.perf_counter(), result["paused_ms"]))
    time.sleep(REST_S)
    return switches


def picture(recording: Recording) -> str:
    """An SVG file's text."""
    start_s = min(each.asked_s for each in recording.answers)
    n_bins = int((max(each.answered_s for each in recording.answers) - start_s) / BIN_S)
    counts = Counter((int((each.answered_s - start_s) / BIN_S), each.digest) for each in recording.answers)
    digests = list(recording.models)
    highest = max(sum(counts[number, digest] for digest in digests) for number in range(n_bins))

    def x(bins: float) -> float:
        return LEFT + bins / n_bins * (WIDTH - LEFT - RIGHT)

    def y(count: float) -> float:
        return BOTTOM - count / highest * (BOTTOM - TOP)

    parts = [_rectangle(0.5, 0.5, WIDTH - 1, HEIGHT - 1, PAPER, f'rx="8" stroke="{FAINT}"')]
    parts.append(_text(LEFT, 26, "Two switches under load", 'font-size="16" font-weight="600"'))
    summary = (
        f"{recording.clients} clients: {len(recording.answers):,} answers, {recording.failed} failed,"
        f" {recording.wrong} wrong for the weights that they name"
    )
    parts.append(_text(LEFT, 46, summary))
    for share in (0.5, 1.0):
        count = share * highest
        parts.append(_line(LEFT, y(count), WIDTH - RIGHT, y(count), FAINT))
        parts.append(_text(LEFT - 6, y(count) + 4, f"{count / BIN_S:,.0f}/s", 'text-anchor="end"'))
    for number in range(n_bins):
        floor = 0
        for digest, colour in zip(digests, COLOURS, strict=True):
            count = counts[number, digest]
            if count:
                width = x(number + 1) - x(number) - 0.6
                parts.append(_rectangle(x(number), y(floor + count), width, y(floor) - y(floor + count), colour))
            floor += count
    for switch in recording.switches:
        began, ended = ((moment - start_s) / BIN_S for moment in (switch.began_s, switch.ended_s))
        parts.append(
            _rectangle(x(began), TOP - 6, max(1.5, x(ended) - x(began)), BOTTOM - TOP + 6, INK, 'opacity="0.10"')
        )
        waited = f"requests waited {switch.paused_ms:.0f} ms" if switch.paused_ms >= 1 else "no request waited"
        parts.append(_text(x(began), TOP - 12, f"{switch.method}: {waited}", 'font-weight="600"'))
    parts.append(_line(LEFT, BOTTOM, WIDTH - RIGHT, BOTTOM, INK))
    parts += [
        _text(x(second / BIN_S), BOTTOM + 16, f"{second} s", 'text-anchor="middle"')
        for second in range(int(n_bins * BIN_S) + 1)
    ]
    for number, (digest, colour) in enumerate(zip(digests, COLOURS, strict=True)):
        left = LEFT + number * 280
        parts.append(_rectangle(left, BOTTOM + 34, 11, 11, colour))
        parts.append(_text(left + 18, BOTTOM + 44, f"answered by {recording.models[digest]} ({digest[7:15]})"))
    label = escape(f"{summary}.", quote=True)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
        f' role="img" aria-label="{label}" font-family="system-ui, sans-serif" font-size="12">\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _rectangle(x: float, y: float, width: float, height: float, fill: str, more: str = "") -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{fill}" {more}/>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{INK}" {more}>{escape(text)}</text>'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--closed-loop", type=int, default=8)
    args = parser.parse_args()
    recording = record(args.streams, args.closed_loop)
    if recording.failed or recording.wrong:
        raise SystemExit(f"No picture: {recording.failed} requests failed and {recording.wrong} answers were wrong.")
    args.out.write_text(picture(recording))
    for switch in recording.switches:
        seconds = switch.ended_s - switch.began_s
        print(f"{switch.method}: {seconds:.1f} s, requests waited {switch.paused_ms:.0f} ms")
    print(f"{len(recording.answers)} answers, none failed, none wrong: {args.out}")


if __name__ == "__main__":
    main()
