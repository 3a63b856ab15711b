"""Names of jobs, owners and models."""

import re
from datetime import UTC, datetime

import psutil
import pytest
from pydantic import ValidationError

from control.jobs.ids import is_surely_dead, new_job_id, new_owner
from control.models.registration import RegisterRequest

MOMENT = datetime(2025, 11, 22, 5, 30, 0, tzinfo=UTC)


def test_job_ids_tell_type_and_time() -> None:
    assert re.fullmatch(r"eval_20251122_053000_[a-z0-9]{4}", new_job_id("eval", MOMENT))


def test_job_ids_of_one_second_differ() -> None:
    assert len({new_job_id("eval", MOMENT) for _ in range(50)}) > 45


def test_this_process_lives() -> None:
    assert not is_surely_dead(new_owner())


def test_two_workers_of_a_process_differ() -> None:
    assert new_owner() != new_owner()


def test_a_process_with_another_start_is_dead() -> None:
    host, boot, pid, _, number = new_owner().split("/")
    assert is_surely_dead(f"{host}/{boot}/{pid}/1/{number}")


def test_a_missing_process_is_dead() -> None:
    host, boot, _, start, number = new_owner().split("/")
    assert is_surely_dead(f"{host}/{boot}/{max(psutil.pids()) + 100_000_000}/{start}/{number}")


@pytest.mark.parametrize("owner", ["elsewhere.example/b/1/1/1", "elsewhere.example/1/1.00", "", "x"])
def test_of_others_nothing_is_known(owner: str) -> None:
    assert not is_surely_dead(owner)


def test_of_another_boot_nothing_is_known() -> None:
    host, _, pid, _, number = new_owner().split("/")
    assert not is_surely_dead(f"{host}/other-boot/{pid}/1/{number}")


@pytest.mark.parametrize("model_id", ["a", "demo-step-1500", "A.b_c-9", "x" * 128])
def test_good_model_ids(model_id: str) -> None:
    assert RegisterRequest(id=model_id, source="t").id == model_id


@pytest.mark.parametrize("model_id", ["", "../x", "a/b", "a..b", "-a", ".a", "a b", "active", "x" * 129, "a\n"])
def test_bad_model_ids(model_id: str) -> None:
    with pytest.raises(ValidationError):
        RegisterRequest(id=model_id, source="t")


def test_tags_are_a_list_or_commas() -> None:
    by_commas = RegisterRequest.model_validate({"id": "a", "source": "t", "tags": "x, y,"})
    by_list = RegisterRequest.model_validate({"id": "a", "source": "t", "tags": ["x", "y"]})
    assert by_commas.tags == by_list.tags == ["x", "y"]
