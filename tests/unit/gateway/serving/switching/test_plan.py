"""The planner's table; docs/switching.md has it in words."""

import pytest

from gateway.errors import MethodImpossible
from gateway.serving.switching.plan import Situation, plan
from stepserve.contract import InFlightPolicy, Signature, SwitchMethod
from tests.unit.gateway.fakes import signature

FULL = "a second engine needs 8.0 GB and 3.0 GB are free"
SAME = signature()


def _situation(
    candidate: Signature | None = SAME,
    *,
    running: Signature | None = SAME,
    anything_runs: bool = True,
    shortage: str | None = None,
    wanted: SwitchMethod = "auto",
    in_flight: InFlightPolicy = "finish",
    reload_obstacle: str | None = None,
    hosted: bool = False,
    resident: bool = False,
) -> Situation:
    return Situation(running, candidate, anything_runs, shortage, wanted, in_flight, hosted, resident, reload_obstacle)


@pytest.mark.parametrize(
    ("situation", "method"),
    [
        (_situation(), "in_place"),
        (_situation(shortage=FULL), "in_place"),
        (_situation(signature(architecture="LlamaForCausalLM")), "blue_green"),
        (_situation(signature(config_sha="x")), "blue_green"),
        (_situation(signature(tokenizer_sha="x")), "blue_green"),
        (_situation(signature(tensors_sha="x")), "blue_green"),
        (_situation(signature(tensors_sha="x"), shortage=FULL), "restart"),
        (_situation(signature(quantization="fp8"), running=signature(quantization="fp8")), "blue_green"),
        (_situation(reload_obstacle="mixers"), "blue_green"),
        (_situation(reload_obstacle="mixers", shortage=FULL), "restart"),
        (_situation(None, shortage="the size of the candidate is not known"), "restart"),
        (_situation(running=None), "blue_green"),
        (_situation(running=None, anything_runs=False), "restart"),
        (_situation(anything_runs=False), "restart"),
        (_situation(resident=True, shortage=FULL), "blue_green"),
        (_situation(resident=True, shortage=FULL, anything_runs=False), "blue_green"),
        (_situation(resident=True, wanted="restart"), "restart"),
        (_situation(resident=True, in_flight="keep"), "in_place"),
        (_situation(in_flight="keep"), "in_place"),
        (_situation(in_flight="abort"), "in_place"),
        (_situation(hosted=True), "adapter"),
        (_situation(hosted=True, in_flight="keep"), "adapter"),
        (_situation(hosted=True, wanted="restart"), "restart"),
        (_situation(wanted="restart"), "restart"),
        (_situation(wanted="blue_green"), "blue_green"),
        (_situation(wanted="in_place"), "in_place"),
    ],
)
def test_the_method(situation: Situation, method: str) -> None:
    assert plan(situation) == method


@pytest.mark.parametrize(
    ("situation", "reason"),
    [
        (_situation(signature(tokenizer_sha="x"), wanted="in_place"), "in tokenizer"),
        (_situation(signature(tensors_sha="x", config_sha="y"), wanted="in_place"), "config.json, names, shapes"),
        (_situation(signature(quantization="awq"), running=signature(quantization="awq"), wanted="in_place"), "Marlin"),
        (_situation(reload_obstacle="a layer of type X", wanted="in_place"), "a layer of type X"),
        (_situation(anything_runs=False, wanted="in_place"), "no engine is running"),
        (_situation(shortage=FULL, wanted="blue_green"), "GB are free"),
        (_situation(anything_runs=False, wanted="blue_green"), "no engine is running"),
        (_situation(in_flight="keep", wanted="restart"), "keep"),
        (_situation(signature(tensors_sha="x"), in_flight="keep"), "keep"),
    ],
)
def test_what_is_impossible_says_why(situation: Situation, reason: str) -> None:
    with pytest.raises(MethodImpossible, match=reason):
        plan(situation)
