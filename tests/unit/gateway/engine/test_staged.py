"""When all ranks have a checkpoint ready, and when it is read later."""

import asyncio
from typing import Any

import pytest

from gateway.engine import staged as module
from gateway.engine.staged import staged
from tests.unit.gateway.fakes import model, signature


class Ranks:
    """Two workers, which say what they are told to, once each time they are asked; the last answer stays."""

    def __init__(self, *states: tuple[str, str], refusal: str | None = None) -> None:
        self.states = list(states)
        self.refusal = refusal
        self.called: list[str] = []

    async def collective_rpc(self, method: str, *, args: tuple[Any, ...] = ()) -> list[Any]:
        self.called.append(method)
        if method == "stepserve_stage":
            return [None, self.refusal]
        if method == "stepserve_staged":
            return list(self.states.pop(0) if len(self.states) > 1 else self.states[0])
        return [None, None]


def outcome(ranks: Ranks, timeout_s: float = 60.0, **changes: Any) -> str | None:
    return asyncio.run(staged(ranks, model("b", signature(**changes)), None, timeout_s))


def test_it_is_ready_when_every_rank_is() -> None:
    ranks = Ranks(("running", "running"), ("ready", "running"), ("ready", "ready"))
    assert outcome(ranks) is None
    assert ranks.called == ["stepserve_stage", *["stepserve_staged"] * 3]


@pytest.mark.parametrize(
    ("ranks", "said"),
    [
        (Ranks(refusal="the engine takes adapters"), "the engine takes adapters"),
        (Ranks(("running", "ready"), ("OSError: it is torn", "ready")), "OSError: it is torn"),
        (Ranks(("running", "ready")), "it was not ready within 0 s"),
    ],
)
def test_where_one_rank_is_not_nothing_is_kept(ranks: Ranks, said: str) -> None:
    assert outcome(ranks, timeout_s=0.0 if "0 s" in said else 60.0) == said
    assert ranks.called[-1] == "stepserve_unstage"


def test_memory_that_does_not_hold_it_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "host_free_bytes", lambda: 1_000_000_000)
    ranks = Ranks(("ready", "ready"))
    said = outcome(ranks, weights_bytes=800_000_000)
    assert said == "1068435456 bytes of memory are needed for that meanwhile, and 1000000000 are free"
    assert ranks.called == []
    assert outcome(ranks, weights_bytes=700_000_000) is None
