"""The next step for a borrow of the engine."""

from dataclasses import replace

import pytest

from control.jobs.engine_borrow import EngineBorrow

BORROWED = EngineBorrow("j", model_id="b", return_to="a", job_status="running", active_id="b", switching=False)


@pytest.mark.parametrize("status", ["done", "failed", "cancelled", None])
def test_it_goes_back_when_the_job_is_over(status: str | None) -> None:
    assert replace(BORROWED, job_status=status).next_step() == "give back"


@pytest.mark.parametrize("status", ["running", "pending"])
def test_it_stays_while_the_job_lives(status: str) -> None:
    assert replace(BORROWED, job_status=status).next_step() == "keep"


@pytest.mark.parametrize("active_id", ["a", "c", None])
@pytest.mark.parametrize("status", ["pending", "done", None])
def test_where_another_model_is_active_there_is_nothing_to_give_back(active_id: str | None, status: str | None) -> None:
    assert replace(BORROWED, active_id=active_id, job_status=status).next_step() == "forget"


def test_nothing_is_decided_while_a_switch_is() -> None:
    assert replace(BORROWED, switching=True, active_id="a", job_status="done").next_step() == "keep"


def test_the_first_switch_of_a_running_job_is_waited_for() -> None:
    assert replace(BORROWED, active_id="a").next_step() == "keep"


def test_where_nothing_was_active_the_model_stays() -> None:
    assert replace(BORROWED, return_to=None, job_status="done").next_step() == "forget"
