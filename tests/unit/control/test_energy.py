import pytest

from control.telemetry.cards import Card, CardsSeen
from control.telemetry.energy import EnergyBook, gpu_seconds_between, joules_between
from stepserve.contract import JobUsage, ModelUsage, RequestClass, UsageReport
from stepserve.jobs.ports import CardUse


def report(in_flight: int = 0, boot: str = "a", jobs: dict[str, float] | None = None, **busy_s: float) -> UsageReport:
    """`busy_s`: seconds by class, of one model `m`; 100 tokens a second."""
    kinds: dict[str, RequestClass] = {"interactive": "interactive", "batch": "batch"}
    return UsageReport(
        boot_id=boot,
        in_flight=in_flight,
        models=[
            ModelUsage(
                model="m", request_class=kinds[kind], requests=1, prompt_tokens=0,
                completion_tokens=int(100 * seconds), busy_s=seconds,
            )
            for kind, seconds in busy_s.items()
        ],
        jobs=[
            JobUsage(job_id=job, prompt_tokens=0, completion_tokens=int(100 * seconds), busy_s=seconds)
            for job, seconds in (jobs or {}).items()
        ],
    )  # fmt: skip


def given(book: EnergyBook) -> float:
    return sum(book.by_model.values()) + book.idle_j + book.pending_j


def test_a_second_goes_to_those_whose_work_took_up_the_engine() -> None:
    book = EnergyBook()
    book.tick(100, report(interactive=1, batch=3, jobs={"eval_1": 3}))
    book.tick(100, report(interactive=2, batch=3, jobs={"eval_1": 3}))
    assert book.by_model == {("m", "interactive"): 25 + 100, ("m", "batch"): 75}
    assert book.by_job == {"eval_1": 75}
    assert book.joules_per_1000_tokens("m") == pytest.approx(200 * 1000 / 500)
    assert book.of_job("eval_1").energy == {"joules": 75, "joules_per_1000_tokens": 250}


def test_while_a_long_answer_runs_its_energy_waits_for_its_end() -> None:
    book = EnergyBook()
    for _ in range(10):
        book.tick(100, report(in_flight=1))
    assert (book.idle_j, book.pending_j) == (0, 1000)
    book.tick(100, report(interactive=10))
    assert book.by_model == {("m", "interactive"): 1100}


def test_an_idle_card_uses_energy_for_nobody() -> None:
    book = EnergyBook()
    book.tick(50, report(interactive=5))
    book.tick(70, report(interactive=5))
    book.tick(30, None)
    assert book.idle_j == 100
    assert book.of_job("eval_1") == CardUse()


def test_the_cards_time_is_shared_out_as_their_energy_is() -> None:
    book = EnergyBook()
    book.tick(0, report(in_flight=2), gpu_s=2)  # two cards, a second, nothing has ended yet
    book.tick(0, report(interactive=1, batch=3, jobs={"eval_1": 3}), gpu_s=2)
    book.tick(0, report(interactive=1, batch=3, jobs={"eval_1": 3}), gpu_s=2)  # idle
    assert book.of_job("eval_1") == CardUse(gpu_seconds=3), "the cards do not say what they draw"


def test_cards_that_were_not_seen_for_long_have_no_time_to_give() -> None:
    assert gpu_seconds_between(seen(1.0), seen(2.5)) == 1.5
    assert gpu_seconds_between(CardsSeen(), seen(2.5)) == 0
    assert gpu_seconds_between(seen(1.0), seen(1000.0)) == 0


def test_a_restarted_gateway_counts_from_nought() -> None:
    book = EnergyBook()
    book.tick(10, report(interactive=100))
    book.tick(10, report(boot="b", interactive=1))
    book.tick(10, report(boot="b", interactive=1, batch=1))
    assert book.by_model == {("m", "interactive"): 20, ("m", "batch"): 10}


def test_no_joule_is_lost_or_made() -> None:
    book = EnergyBook()
    steps = [report(in_flight=2), report(in_flight=1, batch=2), None, report(in_flight=0, batch=2), report(boot="b")]
    for step in steps:
        book.tick(7, step)
    assert given(book) == pytest.approx(7 * len(steps))


def seen(at_s: float, **values: float) -> CardsSeen:
    return CardsSeen([Card(0, **values)], at_s=at_s)  # type: ignore[arg-type]


def test_joules_by_counter_or_by_power_and_time() -> None:
    assert joules_between(seen(0, energy_j=5.0), seen(1, energy_j=8.0)) == 3
    assert joules_between(seen(0, power_draw_w=100.0), seen(2, power_draw_w=200.0)) == 300
    assert joules_between(seen(0, energy_j=9.0, power_draw_w=50.0), seen(1, energy_j=1.0, power_draw_w=50.0)) == 50
    assert joules_between(CardsSeen(), seen(1, energy_j=8.0)) == 0
    assert joules_between(seen(0, power_draw_w=100.0), seen(3600, power_draw_w=100.0)) == 0  # the machine slept
