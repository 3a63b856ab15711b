"""Every known abusive request, one after the other, while a polite client streams: `python -m benchmarks.abuse`.

A real server with the demo model, and keys. The abuser's may ask for half as much at once as the engine works on, since
nothing but such a limit keeps a place for others from 300 clients who ask for what anybody may. For each case: how it
was answered, the polite client's worst time to first token and its errors meanwhile, and how much the gateway grew. The
goal: no error, at most 2 s on two cores, no engine restarted, and the gateway's memory within 300 MB of what it was.
"""

import argparse
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass

import httpx
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.abusive_requests import Abuse, abuses
from benchmarks.polite_client import Asked, PoliteClient, polite_client
from benchmarks.processes import MODEL_ID, stepserve

_GOAL_FIRST_TOKEN_S = 2.0
_GOAL_GROWTH_MB = 300
_JOB_LIMIT_S = 60.0
_FEW = 8
_ABUSER_CONCURRENT = 128


@dataclass(frozen=True, slots=True)
class Outcome:
    answers: Counter[str]
    took_s: float
    asked: list[Asked]
    growth_mb: float

    @property
    def worst_s(self) -> float:
        return max((each.first_token_s for each in self.asked), default=0.0)

    @property
    def errors(self) -> list[str]:
        return [each.error for each in self.asked if each.error]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose names contain this")
    parser.add_argument("--timeout-s", type=float, default=60.0, help="when an abusive client gives up")
    args = parser.parse_args()
    shown = Table(
        "abuse", "clients", "answers", "took s", "worst first token s", "polite answers", "errors", "gateway MB"
    )
    with stepserve() as url:
        admin, polite, infer, jobs = _keys(url)
        gateway = _gateway()
        at_rest_mb = _memory_mb(gateway)
        with polite_client(url, MODEL_ID, polite) as client:
            _await_answer(client, args.timeout_s)
            rest = Outcome(Counter(), 5.0, _during(client, 5.0), 0.0)
            _add(shown, "(none)", 0, rest)
            outcomes = []
            for abuse in abuses():
                if args.only not in abuse.name:
                    continue
                key = jobs if abuse.path.endswith("/jobs") else infer
                outcome = _meanwhile(url, key, abuse, client, gateway, at_rest_mb, args.timeout_s)
                outcomes.append(outcome)
                _add(shown, abuse.name, abuse.at_once, outcome)
                print(f"{abuse.name}: {dict(outcome.answers)}, worst {outcome.worst_s:.2f} s", flush=True)
        deaths = _deaths(url, admin)
        same = gateway.is_running()
        growth_mb = _memory_mb(gateway) - at_rest_mb if same else 0.0
    console = Console(width=170)
    console.print(shown)
    for outcome in outcomes:
        for error in set(outcome.errors):
            console.print(f"error: {error}", markup=False)
    worst_s = max(outcome.worst_s for outcome in outcomes)
    errors = sum(len(outcome.errors) for outcome in outcomes)
    peak_mb = max(outcome.growth_mb for outcome in outcomes)
    met = not errors and worst_s <= _GOAL_FIRST_TOKEN_S and not deaths and same and peak_mb <= _GOAL_GROWTH_MB
    console.print(
        f"worst first token {worst_s:.2f} s (at rest {rest.worst_s:.2f}; at most {_GOAL_FIRST_TOKEN_S:g}), "
        f"{errors} errors, "
        f"{deaths:g} engines died, gateway {'the same' if same else 'RESTARTED'}, grew {growth_mb:.0f} MB, at most "
        f"{peak_mb:.0f} after a case (at most {_GOAL_GROWTH_MB}): {'met' if met else 'NOT MET'}"
    )


def _meanwhile(
    url: str, key: str, abuse: Abuse, client: PoliteClient, gateway: psutil.Process, at_rest_mb: float, timeout_s: float
) -> Outcome:
    same = [abuse.body(0)] * abuse.at_once
    bodies = [abuse.body(number) for number in range(abuse.at_once)] if abuse.at_once <= _FEW else same
    client.asked()
    started = time.monotonic()
    with ThreadPoolExecutor(abuse.at_once) as pool:
        sent = [pool.submit(_send, url, key, abuse.path, body, timeout_s) for body in bodies]
        wait(sent)
    took_s = time.monotonic() - started
    asked = _await_answer(client, 2 * timeout_s)
    return Outcome(Counter(each.result() for each in sent), took_s, asked, _memory_mb(gateway) - at_rest_mb)


def _send(url: str, key: str, path: str, body: bytes, timeout_s: float) -> str:
    """The status, or how there came none; a job is followed to its end."""
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    # Reading the certificates that plain HTTP needs none of takes 300 clients seconds of the server's cores.
    with httpx.Client(base_url=url, timeout=timeout_s, trust_env=False, headers=headers, verify=False) as http:
        try:
            response = http.post(path, content=body)
            if not path.endswith("/jobs") or response.status_code >= 300:
                return str(response.status_code)
            return _follow(http, response.json()["job_id"])
        except httpx.TransportError as error:
            return type(error).__name__


def _follow(http: httpx.Client, job_id: str) -> str:
    deadline = time.monotonic() + _JOB_LIMIT_S
    while time.monotonic() < deadline:
        status: str = http.get(f"/jobs/{job_id}").json()["status"]
        if status not in ("pending", "running"):
            return f"job {status}"
        time.sleep(0.2)  # asked as a script would ask
    http.post(f"/jobs/{job_id}/cancel")
    return "job cancelled by the benchmark"


def _during(client: PoliteClient, seconds: float) -> list[Asked]:
    """What the polite client asks for so long while nobody abuses anything: the figure at rest."""
    client.asked()
    time.sleep(seconds)
    return client.asked()


def _await_answer(client: PoliteClient, timeout_s: float) -> list[Asked]:
    """What has been asked, up to the first chat that began after this call, so that nothing under way is missed."""
    called = time.monotonic()
    asked: list[Asked] = []
    while not (asked and asked[-1].started_s > called):
        if time.monotonic() > called + timeout_s:
            return [*asked, Asked(called, timeout_s, "no answer")]
        asked += client.asked()
        time.sleep(0.02)  # its answers come through a pipe, and this process leaves the cores to the server
    return asked


def _keys(url: str) -> list[str]:
    """Of an administrator, of the polite client, and of the abusive ones for inference alone and for jobs alone; from
    now on the server demands keys. Half of an engine's places are what an abuser may have at once.
    """
    wanted: list[tuple[str, str, dict[str, int]]] = [
        ("admin", "admin", {}),
        ("polite", "infer", {}),
        ("abuser", "infer", {"max_concurrent": _ABUSER_CONCURRENT}),
        ("jobs", "jobs", {}),
    ]
    made: list[str] = []
    for name, scope, limits in wanted:
        headers = {"authorization": f"Bearer {made[0]}"} if made else {}
        body = {"name": name, "scopes": [scope], **limits}
        response = httpx.post(f"{url}/keys", json=body, headers=headers, trust_env=False)
        made.append(response.raise_for_status().json()["key"])
    return made


def _gateway() -> psutil.Process:
    below = psutil.Process().children(recursive=True)
    return next(each for each in below if " ".join(each.cmdline()).startswith("stepserve: gateway"))


def _memory_mb(process: psutil.Process) -> float:
    try:
        resident: int = process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0.0
    return resident / 1e6


def _deaths(url: str, admin: str) -> float:
    text = httpx.get(f"{url}/metrics", headers={"authorization": f"Bearer {admin}"}, timeout=60, trust_env=False).text
    lines = [line for line in text.splitlines() if line.startswith("stepserve_engine_deaths_total{")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def _add(table: Table, name: str, clients: int, outcome: Outcome) -> None:
    answers = ", ".join(f"{count} x {answer}" for answer, count in sorted(outcome.answers.items()))
    table.add_row(
        name,
        str(clients),
        answers,
        f"{outcome.took_s:.1f}",
        f"{outcome.worst_s:.2f}",
        str(len(outcome.asked)),
        str(len(outcome.errors)),
        f"{outcome.growth_mb:+.0f}",
    )


if __name__ == "__main__":
    main()
