"""Names and tags of models, as a registration may give them."""

import pytest
from pydantic import ValidationError

from control.models.registration import RegisterRequest


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
