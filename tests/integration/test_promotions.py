"""Promotions: control with everything real but the engine, which is told what each model knows."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from control.app import create_app
from control.promotion.files import replay
from evals.kind import EvalKind
from stepserve.canary import CanaryAnswer, CanaryJudging
from stepserve.contract import BatchItem, BatchOutput
from tests.eventually import eventually
from tests.integration.control_plane import PACE, settings_of
from tests.integration.fake_gateway import FakeGateway
from tests.integration.migrated import place_database
from tests.integration.test_notifications import receiver
from tests.unit.control.checkpoint_files import write_checkpoint

QUESTIONS = 400
SUITE: list[dict[str, Any]] = [{"dataset_ref": "sums", "metric": "numeric"}]


def knowing(share: float) -> Callable[[BatchItem], BatchOutput]:
    """Right on this share of all questions, the same ones each time, and those who know less know none of the rest."""

    def answer(item: BatchItem) -> BatchOutput:
        assert item.messages is not None
        number = int(item.messages[-1].content.split()[-1].split("+")[0])
        right = (number * 7919) % QUESTIONS < share * QUESTIONS
        return BatchOutput(text=str(number + 1 if right else -1), finish_reason="stop", completion_tokens=3)

    return answer


class PromotionControl:
    """`old` is active and knows half, `new` and others lie beside it."""

    def __init__(self, base: Path, http: httpx.AsyncClient, gateway: FakeGateway) -> None:
        self.base, self.http, self.gateway = base, http, gateway

    async def add(self, model_id: str, share: float) -> None:
        write_checkpoint(self.base / "models" / model_id, len(self.gateway.answers))
        self.gateway.answers[model_id] = knowing(share)
        self.gateway.has_room_for.add(model_id)
        (await self.http.post("/models/register", json={"id": model_id, "source": "t"})).raise_for_status()

    async def activate(self, model_id: str) -> None:
        (await self.http.post("/models/set_active", json={"id": model_id})).raise_for_status()

    async def active(self) -> str:
        return str((await self.http.get("/models/active")).json()["id"])

    async def ask(self, **body: Any) -> str:
        made = await self.http.post("/promotions", json={"suite": SUITE, **body})
        assert made.status_code == 202, made.text
        return str(made.json()["job_id"])

    async def look(self, job_id: str) -> Any:
        return (await self.http.get(f"/promotions/{job_id}")).json()

    async def over(self, job_id: str, status: str = "done") -> Any:
        seen = await eventually(lambda: self.look(job_id), lambda one: one["status"] in {"done", "failed", "cancelled"})
        assert seen["status"] == status, seen["error"]
        return seen

    async def promote(self, candidate: str, status: str = "done", **body: Any) -> Any:
        return await self.over(await self.ask(candidate=candidate, **body), status)

    async def refused(self, status: int, **body: Any) -> str:
        answer = await self.http.post("/promotions", json={"suite": SUITE, "candidate": "new", **body})
        assert answer.status_code == status, answer.text
        return str(answer.json()["detail"])

    def folder(self, job: Any) -> Path:
        return self.base / "runs" / "promotion" / str(job["job_id"])

    def asked_of(self, model_id: str) -> int:
        return sum(len(batch.items) for batch in self.gateway.batches if batch.model == model_id)


@asynccontextmanager
async def promotion_control(base: Path, **changes: Any) -> AsyncIterator[PromotionControl]:
    settings = settings_of(base, batch_items=8, batch_window_items=32, **changes)
    gateway = FakeGateway(settings.layout.gateway_socket)
    place_database(settings)
    app = create_app(settings, [EvalKind()], pace=PACE, job_poll_s=0.3)
    async with gateway.running(), app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://control", timeout=240) as http:
            here = PromotionControl(base, http, gateway)
            lines = [{"question": f"What is {a}+1?", "answer": a + 1, "page": a // 2} for a in range(QUESTIONS)]
            (settings.layout.datasets / "sums.jsonl").write_text("\n".join(map(json.dumps, lines)))
            await here.add("old", 0.5)
            await here.activate("old")
            yield here


def promotion_scenario(test: Callable[[PromotionControl], Awaitable[None]]) -> Callable[[Path], None]:
    async def run(base: Path) -> None:
        async with promotion_control(base) as here:
            await test(here)

    def played(tmp_path: Path) -> None:
        asyncio.run(run(tmp_path))

    played.__name__ = str(getattr(test, "__name__", ""))
    return played


@promotion_scenario
async def test_a_better_candidate_earns_the_switch_with_a_part_of_the_samples(here: PromotionControl) -> None:
    await here.add("new", 0.9)
    job = await here.promote("new", on_pass="activate")
    assert job["decision"] == "promoted"
    (metric,) = job["per_metric"]
    assert metric["samples_used"] < metric["samples_planned"] / 2 == QUESTIONS / 2
    assert here.asked_of("new") < QUESTIONS / 2
    assert here.asked_of("old") < QUESTIONS / 2
    assert metric["p"] <= 0.05
    assert 0 < metric["interval"][0] < metric["difference"] < metric["interval"][1]
    assert job["reasons"] == [job["reasons"][0]]
    assert job["reasons"][0].startswith("numeric on sums.jsonl is shown to be better: +0.")
    assert {item["candidate"] for item in job["items"]} == {item["target"] for item in job["items"]}
    assert {item["baseline"] for item in job["items"]} == {"-1"}
    assert (job["activation"]["status"], await here.active()) == ("activated", "new")
    (last, *_) = (await here.http.get("/models/activations")).json()["activations"]
    assert last["cause"] == f"promotion {job['job_id']}"


@promotion_scenario
async def test_a_worse_candidate_is_refused_by_name_of_the_questions_and_never_serves(here: PromotionControl) -> None:
    await here.add("bad", 0.2)
    for test in ("superior", "non_inferior"):
        job = await here.promote("bad", on_pass="activate", rule={"test": test})
        assert job["decision"] == "refused"
        assert "is shown to be worse" in job["reasons"][0]
        assert job["items"]
        for item in job["items"]:
            assert (item["metric"], item["baseline"], item["candidate"]) == ("numeric", item["target"], "-1")
            assert item["question"] == f"What is {int(item['target']) - 1}+1?"
        assert job["activation"] is None
    assert here.gateway.activated == ["old"]
    assert await here.active() == "old"


@promotion_scenario
async def test_a_copy_is_not_better_but_no_worse_either(here: PromotionControl) -> None:
    await here.add("copy", 0.5)
    job = await here.promote("copy", on_pass="activate")
    assert job["decision"] == "undecided"
    (metric,) = job["per_metric"]
    assert metric["samples_used"] == QUESTIONS
    assert 0 < metric["smallest_difference"] < 0.1
    assert f"would have shown a difference of +{metric['smallest_difference']:.3f}" in job["reasons"][0]
    assert await here.active() == "old"
    job = await here.promote("copy", rule={"test": "non_inferior", "margin": 0.05})
    assert (job["decision"], await here.active()) == ("promoted", "old")
    assert job["per_metric"][0]["samples_used"] < QUESTIONS


@promotion_scenario
async def test_the_baselines_answers_are_asked_once(here: PromotionControl) -> None:
    body = {"model_id": "old", "name": "n", "dataset_ref": "sums", "metrics": ["numeric"], "max_samples": 300}
    made = (await here.http.post("/eval/jobs", json=body)).json()
    await eventually(lambda: here.http.get(f"/jobs/{made['job_id']}"), lambda seen: seen.json()["status"] == "done")
    here.gateway.batches.clear()
    await here.add("copy", 0.5)
    first = await here.promote("copy")
    assert (first["result"]["answers"]["baseline_reused"], here.asked_of("old")) == (300, QUESTIONS - 300)
    here.gateway.batches.clear()
    await here.add("new", 0.6)
    second = await here.promote("new", rule={"test": "non_inferior", "margin": 0.3})
    assert here.asked_of("old") == 0
    assert second["result"]["answers"]["baseline_reused"] == second["result"]["answers"]["candidate"]
    other = [{"dataset_ref": "sums", "metric": "numeric", "max_tokens": 7}]
    await here.promote("new", suite=other, rule={"test": "non_inferior", "margin": 0.3})
    assert here.asked_of("old") > 0, "another sampling is another answer"


@promotion_scenario
async def test_a_stored_run_is_a_baseline_that_is_asked_nothing(here: PromotionControl) -> None:
    body = {"model_id": "old", "name": "n", "dataset_ref": "sums", "metrics": ["numeric"], "max_samples": 100}
    run = (await here.http.post("/eval/jobs", json=body)).json()["job_id"]
    await eventually(lambda: here.http.get(f"/jobs/{run}"), lambda seen: seen.json()["status"] == "done")
    await here.add("new", 0.9)
    await here.activate("new")
    here.gateway.batches.clear()
    here.gateway.has_room_for.clear()
    here.gateway.beside.clear()
    job = await here.promote("new", baseline=run)
    assert (job["decision"], here.asked_of("old")) == ("promoted", 0)
    assert job["per_metric"][0]["samples_planned"] == 100
    detail = await here.refused(422, baseline=run, suite=[{"dataset_ref": "sums", "metric": "numeric", "top_p": 0.5}])
    assert detail.endswith("differs from set 0 of the suite in its sampling")
    assert "no eval job is called 'eval_none'" in await here.refused(404, baseline="eval_none")


@promotion_scenario
async def test_a_suite_is_asked_once_for_each_set_of_questions_and_every_metric_has_to_hold(
    here: PromotionControl,
) -> None:
    (here.base / "datasets" / "more.jsonl").write_bytes((here.base / "datasets" / "sums.jsonl").read_bytes())
    await here.add("new", 0.9)
    suite = [
        {"dataset_ref": "sums", "metric": "numeric"},
        {"dataset_ref": "sums", "metric": "f1", "margin": 0.1},
        {"dataset_ref": "more", "metric": "accuracy", "max_samples": 300, "cluster_by": "page"},
    ]
    job = await here.promote("new", suite=suite, rule={"test": "non_inferior", "margin": 0.2})
    assert job["decision"] == "promoted"
    assert [(one["dataset"], one["metric"], one["margin"]) for one in job["per_metric"]] == [
        ("sums.jsonl", "numeric", 0.2), ("sums.jsonl", "f1", 0.1), ("more.jsonl", "accuracy", 0.2),
    ]  # fmt: skip
    assert job["per_metric"][0]["samples_used"] == job["per_metric"][1]["samples_used"]
    assert job["per_metric"][2]["samples_used"] == 2 * job["per_metric"][2]["clusters"] < 300
    assert here.asked_of("new") == job["result"]["answers"]["candidate"] < 150
    await here.add("worse", 0.1)
    job = await here.promote("worse", suite=suite, rule={"test": "non_inferior", "margin": 0.02})
    assert job["decision"] == "refused"


@promotion_scenario
async def test_a_guard_refuses_what_the_metrics_would_promote(here: PromotionControl) -> None:
    await here.add("long", 0.9)
    knows = here.gateway.answers["long"]
    here.gateway.answers["long"] = lambda item: knows(item).model_copy(update={"completion_tokens": 90})
    job = await here.promote("long", on_pass="activate", guards={"tokens": 2.0, "truncated": 0.0})
    assert (job["decision"], await here.active()) == ("refused", "old")
    assert {(item["guard"], item["difference"]) for item in job["items"]} == {("tokens", 87.0)}
    assert job["reasons"] == ["guard tokens: the ratio to the baseline is 30, over 2"]
    assert [guard["over"] for guard in job["guards"]] == [True, False]
    allowed = await here.promote("long", guards={"tokens": 40.0})
    assert allowed["decision"] == "promoted"


@promotion_scenario
async def test_a_fixed_test_asks_everything_and_says_the_same(here: PromotionControl) -> None:
    await here.add("new", 0.7)
    job = await here.promote("new", sequential=False, max_samples=120)
    assert job["decision"] == "promoted"
    assert (job["per_metric"][0]["samples_used"], here.asked_of("new")) == (120, 120)
    await here.add("copy", 0.5)
    assert (await here.promote("copy", sequential=False))["decision"] == "undecided"


@promotion_scenario
async def test_who_switched_meanwhile_has_the_last_word(here: PromotionControl) -> None:
    await here.add("new", 0.7)
    await here.add("third", 0.5)
    here.gateway.batch_takes_s = 0.3
    job_id = await here.ask(candidate="new", on_pass="activate")
    await eventually(lambda: here.look(job_id), lambda _: here.asked_of("new") > 0)
    here.gateway.beside.update({model.id: model for model in [here.gateway.active] if model is not None})
    await here.activate("third")
    job = await here.over(job_id)
    assert (job["decision"], job["activation"]["status"]) == ("promoted", "superseded")
    assert "third became active meanwhile" in job["activation"]["error"]
    assert await here.active() == "third"


@promotion_scenario
async def test_weights_that_were_pushed_meanwhile_are_not_switched_away(here: PromotionControl) -> None:
    await here.add("new", 0.9)
    here.gateway.pushed = 3
    job = await here.promote("new", on_pass="activate")
    assert (job["decision"], job["activation"]["status"]) == ("promoted", "superseded")
    assert "version 3 of old was pushed meanwhile, and new was not compared with it" in job["activation"]["error"]
    assert (await here.active(), here.gateway.activated) == ("old", ["old"])


@promotion_scenario
async def test_a_candidate_that_does_not_come_up_is_rolled_back(here: PromotionControl) -> None:
    await here.add("new", 0.9)
    here.gateway.fail_with = "CUDA out of memory"
    job = await here.promote("new", on_pass="activate")
    assert (job["decision"], job["status"], await here.active()) == ("rolled_back", "done", "old")
    assert job["activation"]["error"] == "CUDA out of memory"
    assert json.loads((here.folder(job) / "decision.json").read_text())["decision"] == "promoted"


@promotion_scenario
async def test_it_is_cancelled_and_goes_on_where_it_was(here: PromotionControl) -> None:
    await here.add("copy", 0.5)
    here.gateway.batch_takes_s = 0.05
    job_id = await here.ask(candidate="copy")
    await eventually(lambda: here.look(job_id), lambda job: job["progress"]["done"])
    (await here.http.post(f"/jobs/{job_id}/cancel")).raise_for_status()
    cancelled = await here.over(job_id, "cancelled")
    assert cancelled["decision"] is None
    (await here.http.post(f"/jobs/{job_id}/retry")).raise_for_status()
    here.gateway.batch_takes_s = 0.0
    job = await here.over(job_id)
    lines = (here.folder(job) / "0" / "candidate.jsonl").read_text().splitlines()
    assert len({json.loads(line)["id"] for line in lines}) == len(lines) == QUESTIONS


@promotion_scenario
async def test_a_switch_by_itself_needs_an_administrators_key_also_when_it_is_tried_again(
    here: PromotionControl,
) -> None:
    await here.add("new", 0.9)
    here.gateway.batch_takes_s = 2.0
    key = {"x-stepserve-key": "k", "x-stepserve-scopes": "jobs"}
    body = {"candidate": "new", "suite": SUITE, "on_pass": "activate"}
    refused = await here.http.post("/promotions", json=body, headers=key)
    assert (refused.status_code, "scope admin" in refused.json()["detail"]) == (403, True)
    job_id = await here.ask(candidate="new", on_pass="activate")
    (await here.http.post(f"/jobs/{job_id}/cancel", headers=key)).raise_for_status()
    assert (await here.http.post(f"/jobs/{job_id}/retry", headers=key)).status_code == 403
    assert (await here.look(job_id))["status"] == "cancelled"
    told = (await here.http.post("/promotions", json=body | {"on_pass": "notify"}, headers=key)).json()["job_id"]
    (await here.http.post(f"/jobs/{told}/cancel", headers=key)).raise_for_status()
    assert (await here.http.post(f"/jobs/{told}/retry", headers=key)).status_code == 200
    here.gateway.batch_takes_s = 0.0
    assert (await here.http.post(f"/jobs/{job_id}/retry")).status_code == 200
    assert [(await here.over(job))["decision"] for job in (told, job_id)] == ["promoted", "promoted"]
    assert await here.active() == "new"


@promotion_scenario
async def test_a_candidate_without_room_waits_and_is_not_switched_to(here: PromotionControl) -> None:
    await here.add("new", 0.9)
    here.gateway.has_room_for.clear()
    job_id = await here.ask(candidate="new", on_pass="activate")
    waits = await eventually(lambda: here.look(job_id), lambda job: "no room" in (job["waiting_for"] or ""))
    assert (waits["status"], here.gateway.activated) == ("pending", ["old"])
    here.gateway.has_room_for.add("new")
    assert (await here.over(job_id))["decision"] == "promoted"


@promotion_scenario
async def test_a_pinned_baseline_is_loaded_beside(here: PromotionControl) -> None:
    await here.add("new", 0.9)
    await here.add("pinned", 0.6)
    here.gateway.batch_takes_s = 0.3
    job_id = await here.ask(candidate="new", baseline="pinned", on_pass="activate")
    removed = await here.http.delete("/models/pinned")
    assert (removed.status_code, f"cancel {job_id} or wait" in removed.json()["detail"]) == (409, True)
    here.gateway.batch_takes_s = 0.0
    job = await here.over(job_id)
    assert (job["decision"], job["result"]["baseline"]["id"]) == ("promoted", "pinned")
    assert (here.asked_of("old"), await here.active()) == (0, "new")
    assert (await here.http.delete("/models/pinned")).status_code == 200


@promotion_scenario
async def test_a_decision_is_worked_out_again_from_its_files(here: PromotionControl) -> None:
    await here.add("new", 0.9)
    job = await here.promote("new")
    folder = here.folder(job)
    again, differs = replay(folder)
    assert (again["decision"], again["reasons"], differs) == ("promoted", job["reasons"], [])
    log = folder / "0" / "candidate.jsonl"
    log.write_text(log.read_text().replace('"value":1.0', '"value":0.0'))
    again, differs = replay(folder)
    assert again["decision"] != "promoted"
    assert "0/candidate.jsonl is not what the decision was made of" in differs
    assert "`decision` comes out otherwise" in differs
    log.unlink()
    assert "0/candidate.jsonl is gone" in replay(folder)[1]


@promotion_scenario
async def test_the_same_request_again_is_the_same_promotion(here: PromotionControl) -> None:
    await here.add("new", 0.9)
    headers = {"Idempotency-Key": "x"}
    body = {"candidate": "new", "suite": SUITE}
    first, again = [(await here.http.post("/promotions", json=body, headers=headers)).json() for _ in range(2)]
    assert (again["job_id"], again["existing"]) == (first["job_id"], True)
    other = await here.http.post("/promotions", json=body | {"seed": 1}, headers=headers)
    assert other.status_code == 409


@promotion_scenario
async def test_what_makes_no_sense_is_refused_naming_the_field(here: PromotionControl) -> None:
    await here.add("new", 0.9)
    for status, body, detail in (
        (404, {"candidate": "none"}, "none"),
        (422, {"candidate": "active"}, "candidate: old is the baseline"),
        (422, {"suite": []}, "suite"),
        (422, {"suite": [{"dataset_ref": "sums", "metric": "avg_loss"}]}, "suite.0.metric: avg_loss has no bound"),
        (422, {"suite": [{"dataset_ref": "sums", "metric": "bleurt"}]}, "suite.0.metric: unknown metric 'bleurt'"),
        (404, {"suite": [*SUITE, {"dataset_ref": "none", "metric": "f1"}]}, "suite.1.dataset_ref: there is no file"),
        (422, {"suite": [{"dataset_ref": "sums", "metric": "acc"}]}, "suite.0.metrics: sums.jsonl, line 1: acc"),
        (422, {"suite": [{"dataset_ref": "sums", "metric": "f1", "cluster_by": "x"}]}, "suite.0.cluster_by: "),
        (422, {"suite": [{"dataset_ref": "sums", "metric": "f1", "model_id": "x"}]}, "suite.0.model_id"),
        (422, {"suite": [{"dataset_ref": "sums", "metric": "f1", "n": 4}]}, "suite.0.temperature: 4 answers"),
        (422, {"rule": {"margin": 0.9}}, "rule.margin"),
        (422, {"rule": {"alpha": 0}}, "rule.alpha"),
        (422, {"guards": {"kindness": 1}}, "guards"),
        (422, {"canary": {"share": 0.1}}, "canary"),
    ):
        assert detail in await here.refused(status, **body), body


async def test_a_webhook_is_told_of_the_decision_with_its_reasons(tmp_path: Path) -> None:
    async with receiver() as there, promotion_control(tmp_path, webhook_hosts=["127.0.0.1"]) as here:
        for name, body in (
            ("ci", {"events": ["promotion.*"]}),
            ("chat", {"events": ["promotion.*"], "form": "slack"}),
        ):
            (await here.http.put(f"/webhooks/{name}", json={"url": there.url, **body})).raise_for_status()
        await here.add("bad", 0.2)
        job = await here.promote("bad")
        await there.has(2)
        said = {("text" in body): body for body in map(json.loads, there.bodies)}
        assert (said[False]["event"], said[False]["data"]["reasons"]) == ("promotion.refused", job["reasons"])
        assert said[False]["data"]["per_metric"] == job["per_metric"]
        assert said[True]["text"] == f"the promotion of bad is refused: {job['reasons'][0]}"


@pytest.mark.parametrize("errors", [0.01, 0.5])
async def test_a_few_errors_are_left_out_and_many_fail_the_job(tmp_path: Path, errors: float) -> None:
    async with promotion_control(tmp_path) as here:
        await here.add("new", 0.9)
        knows = here.gateway.answers["new"]

        def answer(item: BatchItem) -> BatchOutput:
            said = knows(item)
            number = int(str(item.messages and item.messages[-1].content.split()[-1].split("+")[0]))
            return BatchOutput(error="too hot") if (number * 31) % 400 < errors * 400 else said

        here.gateway.answers["new"] = answer
        job = await here.promote("new", "done" if errors < 0.02 else "failed", sequential=False)
        if errors < 0.02:
            assert (job["decision"], job["per_metric"][0]["left_out"]) == ("promoted", 4)
        else:
            assert (job["decision"], await here.active()) == (None, "old")
            assert job["error"].startswith("new: ")
            assert job["error"].endswith("too hot")


@promotion_scenario
async def test_a_decision_can_be_mailed_as_one_file(here: PromotionControl) -> None:
    await here.add("better", 0.9)
    job_id = await here.ask(candidate="better", baseline="old", guards={"tokens": 1.5})
    early = await here.http.get(f"/promotions/{job_id}/report")
    job = await here.over(job_id)
    page = await here.http.get(f"/promotions/{job_id}/report")
    assert early.status_code == 409 or early.text == page.text
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for said in (
        "Promoted.",
        "numeric on sums.jsonl",
        "while pairs came in",
        "tokens",
        job["result"]["candidate"]["digest"],
    ):
        assert said in page.text
    assert page.text.count("<svg") == 2  # the intervals, and how they went
    text = (await here.http.get(f"/promotions/{job_id}/report?format=markdown")).text
    assert text.startswith("# Promotion of better over old\n")
    used = f"{job['per_metric'][0]['samples_used']} of {QUESTIONS}"
    assert used in text
    assert used in page.text
    assert (await here.http.get(f"/promotions/{job_id}/report?format=pdf")).status_code == 422
    (here.folder(job) / "0" / "candidate.jsonl").unlink()  # the numbers are kept, the curve is not
    (here.folder(job) / "0" / "order.json").write_text("{")
    assert (await here.http.get(f"/promotions/{job_id}/report")).text.count("<svg") == 1
    assert (await here.http.get("/promotions/promotion_none/report")).status_code == 404


@promotion_scenario
async def test_a_suite_that_all_pass_says_so_in_the_report(here: PromotionControl) -> None:
    await here.add("a", 1.0)
    await here.add("b", 1.0)
    job = await here.promote("a", baseline="b", rule={"test": "non_inferior", "margin": 0.2})
    text = (await here.http.get(f"/promotions/{job['job_id']}/report?format=markdown")).text
    assert "numeric on sums.jsonl is saturated: both models have all right, so it can show nothing." in text


CANARY: dict[str, Any] = {"share": 0.1, "seconds": 60, "max_error_rate": 0.02, "max_latency_ratio": 2}


@promotion_scenario
async def test_a_canary_comes_before_the_switch(here: PromotionControl) -> None:
    await here.add("new", 0.9)
    here.gateway.canary_states = ["running", "passed"]
    job = await here.promote("new", on_pass="activate", canary=CANARY)
    assert (job["decision"], job["activation"]["status"], await here.active()) == ("promoted", "activated", "new")
    assert job["canary"]["state"] == "passed"
    assert "the canary passed after 2 s: 10 requests to the candidate" in job["reasons"][-1]
    first, second = here.gateway.canaries
    assert first == second
    assert (first.id, first.candidate.id, first.share, first.max_latency_ratio) == (job["job_id"], "new", 0.1, 2)
    assert first.active != first.candidate.digest
    assert here.gateway.canaries_ended == [job["job_id"]]
    assert not replay(here.folder(job))[1]
    report = (await here.http.get(f"/promotions/{job['job_id']}/report?format=markdown")).text
    assert "## The canary" in report


@promotion_scenario
async def test_a_breached_canary_is_rolled_back_and_never_switches(here: PromotionControl) -> None:
    await here.add("new", 0.9)
    here.gateway.canary_states = ["breached"]
    job = await here.promote("new", on_pass="activate", canary=CANARY)
    assert (job["decision"], job["activation"], await here.active()) == ("rolled_back", None, "old")
    assert "(breached: it is breached)" in job["reasons"][-1]
    assert here.gateway.activated == ["old"]
    here.gateway.canary_states = ["superseded"]
    await here.add("newer", 0.95)
    job = await here.promote("newer", on_pass="activate", canary=CANARY)
    assert (job["decision"], job["activation"]["status"], await here.active()) == ("promoted", "superseded", "old")


@promotion_scenario
async def test_what_a_canary_sees_is_there_while_it_runs(here: PromotionControl) -> None:
    await here.add("new", 0.9)
    here.gateway.canary_states = ["running"]
    job_id = await here.ask(candidate="new", on_pass="activate", canary=CANARY)
    seen = await eventually(lambda: here.look(job_id), lambda job: job["canary"])
    assert (seen["status"], seen["decision"], seen["canary"]["state"]) == ("running", None, "running")
    assert (seen["canary"]["candidate"]["requests"], seen["canary"]["latency_ratio"]) == (10, 1.25)
    assert seen["canary"]["guards"] == [{"guard": "errors", "value": 0.004, "limit": 0.02, "evidence": 0.5}]
    here.gateway.canary_requests = 11
    await eventually(lambda: here.look(job_id), lambda job: job["canary"]["active"]["requests"] == 11)
    here.gateway.canary_states = ["passed"]
    over = await here.over(job_id)
    assert (over["canary"]["state"], over["canary"]["guards"]) == ("passed", seen["canary"]["guards"])
    await here.add("newer", 0.95)
    here.gateway.canary_states = ["running"]
    job_id = await here.ask(candidate="newer", on_pass="activate", canary=CANARY)
    await eventually(lambda: here.look(job_id), lambda job: job["canary"])
    (await here.http.post(f"/jobs/{job_id}/cancel")).raise_for_status()
    assert (await here.over(job_id, "cancelled"))["canary"] is None


@promotion_scenario
async def test_a_canary_without_requests_leaves_it_open_and_switches_nothing(here: PromotionControl) -> None:
    await here.add("new", 0.9)
    here.gateway.canary_states = ["running", "undecided"]
    job = await here.promote("new", on_pass="activate", canary={**CANARY, "min_requests": 7})
    assert (job["decision"], job["activation"], await here.active()) == ("undecided", None, "old")
    assert "the canary was ended after 2 s (undecided: it is undecided): 10 requests" in job["reasons"][-1]
    assert [order.min_requests for order in here.gateway.canaries] == [7, 7]
    assert here.gateway.activated == ["old"]


@promotion_scenario
async def test_a_candidate_that_is_lost_during_its_canary_is_loaded_again_and_cannot_pass_unseen(
    here: PromotionControl,
) -> None:
    await here.add("new", 0.9)
    here.gateway.canary_states = ["running", "lost", "running", "passed"]
    job = await here.promote("new", on_pass="activate", canary=CANARY)
    assert (job["canary"]["state"], await here.active()) == ("passed", "new")
    assert len(here.gateway.canaries) == 4, "it was loaded again at once"
    here.gateway.canary_states = ["lost"]
    await here.add("newer", 0.95)
    job = await here.promote("newer", on_pass="activate", canary=CANARY)
    assert (job["decision"], await here.active()) == ("rolled_back", "new")
    assert "the candidate was lost 4 times: it is lost" in job["reasons"][-1]


@promotion_scenario
async def test_a_canary_without_a_switch_or_with_too_large_a_share_is_refused(here: PromotionControl) -> None:
    await here.add("new", 0.9)
    assert "canary: needs on_pass" in await here.refused(422, canary=CANARY)
    assert "share" in await here.refused(422, on_pass="activate", canary={**CANARY, "share": 0.9})
    shadow = {**CANARY, "shadow": True}
    assert "max_latency_ratio: a shadow" in await here.refused(422, on_pass="activate", canary=shadow)
    await here.add("bad", 0.1)
    job = await here.promote("bad", on_pass="activate", canary=CANARY)
    assert (job["decision"], job["canary"], here.gateway.canaries) == ("refused", None, [])


@promotion_scenario
async def test_a_judge_of_this_server_reads_answers_while_the_canary_runs(here: PromotionControl) -> None:
    await here.add("new", 0.9)
    await here.add("wise", 0.5)
    here.gateway.canary_states = ["running"]
    here.gateway.canary_answers = [
        CanaryAnswer(number=n, question=f"xyzzy {n}", answer=text) for n, text in enumerate("abc", 1)
    ]

    def judges(item: BatchItem) -> BatchOutput:
        assert item.messages is not None
        said = {"a": "CORRECT", "b": "INCORRECT", "c": "I cannot say what xyzzy 3 is"}
        letter = item.messages[0].content.partition("Its answer:\n")[2][0]
        return BatchOutput(text=said[letter], finish_reason="stop")

    here.gateway.answers["wise"] = judges
    asked = {"model": "wise", "max_drop": 0.2, "share": 0.5, "min_answers": 5}
    job_id = await here.ask(candidate="new", on_pass="activate", canary={**CANARY, "judge": asked})
    seen = await eventually(
        lambda: here.look(job_id), lambda job: bool(job["canary"]) and job["canary"]["judge"]["pairs"] > 0
    )
    judged = {"pairs": 2, "candidate_good": 0.5, "active_good": 1, "unread": 1}
    assert seen["canary"]["judge"] == {**judged, "trouble": "judge: its reply has neither CORRECT nor INCORRECT"}
    assert here.gateway.canaries[0].judge == CanaryJudging(share=0.5, max_drop=0.2, min_answers=5)
    here.gateway.canary_states = ["passed"]
    job = await here.over(job_id)
    assert (job["decision"], await here.active()) == ("promoted", "new")
    assert "the judge calls 0.500 of the candidate's, 1.000 of the active model's answers good" in job["reasons"][-1]
    report = (await here.http.get(f"/promotions/{job_id}/report?format=markdown")).text
    assert "A judge read 2 answers of each model; 1 got no verdict." in report
    kept = [file.read_bytes() for file in here.base.rglob("*") if file.is_file()]
    assert not any(b"xyzzy" in content for content in kept), "nothing of what was asked or said is kept"


@promotion_scenario
async def test_a_judge_that_cannot_be_one_is_refused_by_name(here: PromotionControl) -> None:
    await here.add("new", 0.9)
    for status, judge, said in (
        (404, {"model": "nobody"}, "canary.judge.model: "),
        (422, {"model": "new"}, "canary.judge.model: new is the candidate, and cannot judge itself: name another one"),
        (422, {"model": "old", "url": "http://elsewhere/v1"}, "what people ask is not sent to another server"),
    ):
        assert said in await here.refused(status, on_pass="activate", canary={**CANARY, "judge": judge})
    job = await here.promote("new", on_pass="activate", canary={**CANARY, "judge": {"model": "active"}})
    assert job["config"]["canary"]["judge"]["model"] == "old", "who was active then"
