"""What a gateway says of its keys' usage comes from other machines too, and goes into rows."""

from typing import Any

import pytest
from pydantic import ValidationError

from stepserve.access import SyncRequest

USAGE = {"key_id": "a", "model": "m", "day": "2026-01-31", "requests": 1, "prompt_tokens": 2, "completion_tokens": 3}


@pytest.mark.parametrize(
    "odd",
    [
        {"requests": -1}, {"prompt_tokens": 2**63}, {"day": "yesterday"}, {"day": "2026-01-31\n"},
        {"model": "m" * 1001}, {"key_id": "\x00"},
    ],
)  # fmt: skip
def test_a_row_takes_what_is_let_in(odd: dict[str, Any]) -> None:
    assert SyncRequest.model_validate({"source": "s", "usage": [USAGE]}).usage
    with pytest.raises(ValidationError, match=f"usage.0.{next(iter(odd))}"):
        SyncRequest.model_validate({"source": "s", "usage": [USAGE | odd]})
    with pytest.raises(ValidationError, match="revision"):
        SyncRequest.model_validate({"source": "s", "revision": 2**63})
