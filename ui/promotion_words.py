"""A promotion in sentences for somebody who knows no statistics. Pure; texts are as they came, for others to escape."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from stepserve.client.results import Promotion
from ui.format import number, percent, points

Tone = Literal["success", "error", "warning", "info"]
Metric = Mapping[str, Any]

ACTIVATE: Final = "activate"

_GUARDS = {
    "truncated": "answers cut off at their longest",
    "unparsed": "answers in which nothing was found",
    "empty": "answers without any text",
    "loss": "loss on the reference answers",
    "latency": "seconds an answer takes",
    "tokens": "tokens in an answer",
}
_CANARY_GUARDS = {
    "errors": "Requests that failed",
    "latency": "Seconds an answer takes, to the active model's",
    "tokens": "Tokens in an answer, to the active model's",
    "judge": "Good answers, less than the active model's",
}
_RAREST = 1e-4


@dataclass(frozen=True, slots=True)
class Asked:
    """What a promotion was asked for. `margin`: how much worse counts as no worse, where all metrics have the same."""

    candidate: str
    baseline: str
    candidate_digest: str
    baseline_digest: str
    baseline_run: str | None
    metrics: tuple[tuple[str, str, float], ...]
    test: str
    alpha: float
    guards: Mapping[str, float]
    sequential: bool
    switches: bool
    canary: Mapping[str, Any] | None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Asked | None":
        """None for what a person wrote into the database, or another version did."""
        try:
            names = [one["eval"]["dataset"]["name"] for one in config["sets"]]
            return cls(
                candidate=config["candidate"]["id"],
                baseline=config["baseline"]["id"],
                candidate_digest=config["candidate"]["digest"],
                baseline_digest=config["baseline"]["digest"],
                baseline_run=config["baseline_run"],
                metrics=tuple((names[one["set"]], one["metric"], float(one["margin"])) for one in config["metrics"]),
                test=config["rule"]["test"],
                alpha=float(config["rule"]["alpha"]),
                guards=dict(config["guards"]),
                sequential=bool(config["sequential"]),
                switches=config["on_pass"] == ACTIVATE,
                canary=config.get("canary"),
            )
        except (KeyError, TypeError, IndexError, ValueError):
            return None

    @property
    def question(self) -> str:
        """The whole promotion as one question."""
        margins = {margin for _, _, margin in self.metrics}
        by = f"by more than {_size(margins.pop())}" if len(margins) == 1 else "by more than its margin"
        if self.test == "superior":
            return f"Is {self.candidate} better than {self.baseline} in something, and worse in nothing {by}?"
        return f"Is {self.candidate} as good as {self.baseline}, that is: worse in nothing {by}?"

    def rules(self) -> Iterator[str]:
        """How it was asked, a sentence each."""
        yield f"Both models answer the same questions: {', '.join(_named(*one[:2]) for one in self.metrics)}."
        if self.baseline_run is not None:
            yield f"The answers of {self.baseline} are those of {self.baseline_run}; it is asked nothing again."
        if self.sequential:
            yield "It stops as soon as the answers are clear."
        else:
            yield "All questions are asked, and then it is decided once."
        yield f"It promotes a model that should not be promoted at most {_of(self.alpha)} times."
        for guard, limit in self.guards.items():
            yield f"It promotes nothing while {_guard(guard)} are over the limit of {_limit(guard, limit)}."
        if self.canary is not None:
            yield _canary(self.canary)
            if least := self.canary.get("min_requests"):
                yield f"With fewer than {least} requests in that time it stays open."
            if judge := self.canary.get("judge"):
                yield (
                    f"{judge['model']} reads answers of both meanwhile, and ends it when the candidate has"
                    f" {_size(judge['max_drop'])} fewer good ones. With fewer than {judge['min_answers']} of each that"
                    " were judged it stays open."
                )
        yield (
            "Once promoted, it becomes the active model."
            if self.switches
            else "Nothing is switched, whatever comes out."
        )

    @property
    def confidence(self) -> float:
        """How often the ranges that are shown hold the truth."""
        return 1 - 2 * self.alpha if self.sequential else 0.95


def headline(job: Promotion) -> tuple[Tone, str]:
    """How it ended, or where it is."""
    match job.status:
        case "failed":
            return "error", f"It ended without a decision: {job.error or 'the log of jobs says why'}"
        case "cancelled":
            return "warning", "It was cancelled before it was decided. Answers that are there are kept."
        case "done":
            return _decided(job)
        case _ if job.canary:
            asked = Asked.of(job.config)
            candidate = asked.candidate if asked else "The candidate"
            return "info", f"{candidate} passed the questions. Its canary runs."
        case _:
            return "info", f"It waits: {job.waiting_for}." if job.waiting_for else "It is not decided yet."


def _decided(job: Promotion) -> tuple[Tone, str]:
    asked = Asked.of(job.config)
    candidate = asked.candidate if asked else job.model_id or "The candidate"
    baseline = asked.baseline if asked else "the baseline"
    match job.decision:
        case "promoted":
            return "success", f"{candidate} earned the place of {baseline}. {_switched(job)}"
        case "refused":
            return "error", f"{candidate} may not take the place of {baseline}."
        case "rolled_back":
            return "error", f"{candidate} passed the questions, but did not hold. {_kept(job)}"
        case _ if job.canary:
            return (
                "warning",
                f"{candidate} passed the questions, but its canary showed too little. Nothing was switched.",
            )
        case _:
            return "warning", f"It is open whether {candidate} may take the place of {baseline}. Nothing was switched."


def outcome(metric: Metric) -> str:
    """One measure: from what to what, and how far the truth may lie from it."""
    name = _named(metric["dataset"], metric["metric"])
    if metric["difference"] is None:
        return f"{name}: no question was answered by both models."
    between = ""
    if (ends := metric["interval"]) is not None:
        between = f" (between {points(ends[0])} and {points(ends[1])})"
    return f"{name}: {percent(metric['a'])} → {percent(metric['b'])}, {points(metric['difference'])}{between}."


def changes(metric: Metric) -> str | None:
    """In questions, where each is right or wrong."""
    if metric.get("fixed") is None:
        return None
    return (
        f"Of {metric['samples_used']} questions, {metric['fixed']} that were wrong are right now, and"
        f" {metric['broken']} that were right are wrong now."
    )


def certainty(metric: Metric, decision: str | None, asked: Asked) -> str | None:
    """How sure it is, as how often chance alone would look like it; None where this metric decided nothing."""
    if metric["difference"] is None:
        return None
    if decision == "undecided":
        least = metric["smallest_difference"]
        if least is None:
            return "So few questions can show no difference at all."
        return f"So many questions would show a difference of {points(least)} or more four times out of five."
    claims = [("p_worse", "worse than it may be")]
    if decision != "refused":
        better = [("p", "better")] if asked.test == "superior" else []
        claims = [*better, ("p_not_worse", f"not worse by {_size(metric['margin'])}")]
    for key, claim in claims:
        p = metric[key]
        if p is not None and p <= asked.alpha:
            return f"It is {claim}. If it were not, chance would make it look so at most {_of(max(p, _RAREST))} times."
    return None


def effort(metric: Metric) -> str:
    used, planned = metric["samples_used"], metric["samples_planned"]
    return f"{used} of {planned} questions were needed." if used < planned else f"All {planned} questions were asked."


def saturated(metric: Metric) -> str | None:
    """Questions that all are right, or none, for both tell nobody apart."""
    both = {metric["a"], metric["b"]}
    if both not in ({0.0}, {1.0}):
        return None
    share = "all" if both == {1.0} else "none"
    return f"{_named(metric['dataset'], metric['metric'])} can show nothing: both models have {share} right."


def guard_said(guard: Mapping[str, Any]) -> str:
    name, value = guard["guard"], guard["value"]
    if value is None:
        return f"{_guard(name).capitalize()}: not known, since no answer has it."
    over = "over the limit of" if guard["over"] else "within the limit of"
    unit = " times the baseline's" if guard["kind"] == "ratio" else " more than the baseline's"
    return f"{_guard(name).capitalize()}: {number(value)}{unit}, {over} {number(guard['limit'])}."


def canary_said(canary: Mapping[str, Any]) -> str:
    new, old = canary["candidate"]["requests"], canary["active"]["requests"]
    if canary["state"] == "running":
        came = f"{new} requests to the candidate, {old} to the active model"
        return f"It has been running for {canary['elapsed_s']:.0f} s: {came}."
    ends = {
        "passed": "It passed",
        "breached": "It was over a limit, and ended at once",
        "undecided": "It showed too little",
        "superseded": "It was given up, since another model became active",
    }
    said = ends.get(str(canary["state"]), f"It is {canary['state']}")
    why = f": {canary['reason']}" if canary.get("reason") else ""
    shadow = ""
    if canary.get("compared"):
        same = f"{canary['same']} of {canary['compared']} were the same as the active model's"
        shadow = f" Nobody got its answers: {same}."
    return f"{said} after {canary['elapsed_s']:.0f} s{why}.{shadow}"


def judge_said(judged: Mapping[str, Any]) -> str:
    """What the judge of a canary makes of the answers."""
    pairs, unread = judged["pairs"], judged["unread"]
    new, old = (percent(judged[key]) for key in ("candidate_good", "active_good"))
    found = f": {new} of the candidate's are good, and {old} of the active model's" if pairs else ""
    lost = f" {unread} got no verdict, and count for nobody." if unread else ""
    why = f" The last trouble: {str(judged['trouble']).rstrip('.')}." if judged["trouble"] else ""
    return f"The judge read {pairs} answers of each model{found}.{lost}{why}"


def canary_guard_said(guard: Mapping[str, Any]) -> str:
    """How near a limit is."""
    if guard["value"] is None:
        return f"{_CANARY_GUARDS[guard['guard']]}: not known yet."
    shown = {"errors": percent, "judge": _size_of}.get(str(guard["guard"]), _times)
    value, limit = shown(guard["value"]), shown(guard["limit"])
    near = f"{100 * guard['evidence']:.0f} % of the evidence that would end it"
    return f"{_CANARY_GUARDS[guard['guard']]}: {value}, at most {limit} allowed; {near}."


def _switched(job: Promotion) -> str:
    activation = job.activation
    if activation is None:
        return "Nothing was switched, as asked."
    match activation.get("status"):
        case "activated":
            return "It was made the active model."
        case "superseded":
            return "It was not made active, since another model became active meanwhile."
        case other:
            return f"The switch is {other}."


def _kept(job: Promotion) -> str:
    said = ""
    if error := (job.activation or {}).get("error"):
        said = f"The switch failed: {error.rstrip('.')}. "
    elif reason := (job.canary or {}).get("reason"):
        said = f"Its canary was ended: {reason}. "
    return f"{said}The model before serves."


def _canary(canary: Mapping[str, Any]) -> str:
    share, seconds = percent(canary.get("share")), canary.get("seconds")
    if canary.get("shadow"):
        return f"Then it is asked {share} of the live requests too for {seconds:g} s, and nobody gets its answers."
    return f"Then it answers {share} of the live requests for {seconds:g} s, and is taken back if that goes wrong."


def _named(dataset: str, metric: str) -> str:
    return f"{metric} on {dataset}"


def _size_of(drop: float) -> str:
    return f"{100 * drop:.1f} points"


def _times(value: float) -> str:
    return f"{value:.3g} times"


def _guard(name: str) -> str:
    return _GUARDS.get(name, name)


def _limit(guard: str, limit: float) -> str:
    return (
        f"{limit:g} times the baseline's" if guard in {"latency", "tokens"} else f"{limit:g} more than the baseline's"
    )


def _size(margin: float) -> str:
    return f"{100 * margin:g} points"


def _of(share: float) -> str:
    """`5 of 100`, `1 of 2,000`."""
    return f"{100 * share:.2g} of 100" if share >= 0.01 else f"1 of {round(1 / share):,}"
