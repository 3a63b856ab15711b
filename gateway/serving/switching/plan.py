"""Which way to switch: a pure decision over facts. docs/switching.md has the same table in words."""

from dataclasses import dataclass
from typing import Literal

from gateway.errors import MethodImpossible
from stepserve.contract import InFlightPolicy, Signature, SwitchMethod

Method = Literal["adapter", "in_place", "blue_green", "restart"]

# What a reload in place is known not to carry over, with the reason; looked up by quantisation and by architecture.
IN_PLACE_UNSAFE: dict[str, str] = {
    "fp8": "vLLM re-packs FP8 weights at load, and a reload leaves scales of the old ones",
    "compressed-tensors": "packed layouts are built at load and not again at a reload",
    "gptq": "Marlin layouts are built at load and not again at a reload",
    "awq": "Marlin layouts are built at load and not again at a reload",
    "q4": "quantised at load, from weights that a reload does not quantise",
    "q8": "quantised at load, from weights that a reload does not quantise",
    "bitsandbytes": "quantised at load, from weights that a reload does not quantise",
    "DeepseekV2ForCausalLM": "MLA keeps weights absorbed at load",
    "DeepseekV3ForCausalLM": "MLA keeps weights absorbed at load",
    "GptOssForCausalLM": "MXFP4 experts are shuffled at load",
}


@dataclass(frozen=True, slots=True)
class Situation:
    """`running` is None when nothing serves; a signature is None when the files were never looked at.

    `shortage`: why there is no memory for the candidate's engine beside all others; None: there is.

    `hosted`: the running engine has the candidate's weights already: it is an adapter on them, or their adapter serves.
    `resident`: another engine has them. `reload_obstacle`: what the running engine says of its own layers.
    """

    running: Signature | None
    candidate: Signature | None
    anything_runs: bool
    shortage: str | None
    wanted: SwitchMethod = "auto"
    in_flight: InFlightPolicy = "finish"
    hosted: bool = False
    resident: bool = False
    reload_obstacle: str | None = None


def plan(situation: Situation) -> Method:
    """The quickest method that is possible, or the one asked for. Raises MethodImpossible saying why it is not."""
    obstacles = {
        "in_place": in_place_obstacle(situation),
        "blue_green": blue_green_obstacle(situation),
        "restart": restart_obstacle(situation),
    }
    if situation.wanted != "auto":
        reason = obstacles[situation.wanted]
        if reason is not None:
            raise MethodImpossible(f"method: `{situation.wanted}` is impossible here: {reason}.")
        return situation.wanted
    if situation.hosted:
        return "adapter"
    if situation.in_flight == "keep" and obstacles["in_place"] is not None:
        raise MethodImpossible(f"in_flight: `keep` needs a switch in place: {obstacles['in_place']}.")
    if obstacles["in_place"] is None and not (situation.resident and obstacles["blue_green"] is None):
        return "in_place"
    return "blue_green" if obstacles["blue_green"] is None else "restart"


def in_place_obstacle(situation: Situation) -> str | None:
    """Why the running engine cannot take the candidate's tensors, or None when it can."""
    running, candidate = situation.running, situation.candidate
    if not situation.anything_runs:
        return "no engine is running"
    if running is None or candidate is None:
        return "it is not known what the checkpoints consist of"
    for key in (candidate.quantization, candidate.architecture):
        if key in IN_PLACE_UNSAFE:
            return f"{key}: {IN_PLACE_UNSAFE[key]}"
    if situation.reload_obstacle is not None:
        return situation.reload_obstacle
    differences = [
        word
        for word, mine, theirs in (
            ("architecture", running.architecture, candidate.architecture),
            ("config.json", running.config_sha, candidate.config_sha),
            ("tokenizer or chat template", running.tokenizer_sha, candidate.tokenizer_sha),
            ("names, shapes or types of the tensors", running.tensors_sha, candidate.tensors_sha),
        )
        if mine != theirs
    ]
    return f"the candidate differs from the running model in {', '.join(differences)}" if differences else None


def blue_green_obstacle(situation: Situation) -> str | None:
    """Why a second engine cannot take over from the first, or None when it can."""
    if not situation.anything_runs and not situation.resident:
        return "no engine is running"
    if situation.in_flight == "keep":
        return "in_flight `keep` needs a switch in place"
    return None if situation.resident else situation.shortage


def wants_memory(situation: Situation) -> bool:
    """True when only more free memory would change how, or whether, the switch is done."""
    if situation.wanted not in {"auto", "blue_green"} or situation.in_flight == "keep" or situation.resident:
        return False
    if situation.wanted == "auto" and (situation.hosted or in_place_obstacle(situation) is None):
        return False
    if situation.candidate is None:
        return False
    return situation.anything_runs and situation.shortage is not None


def restart_obstacle(situation: Situation) -> str | None:
    return "in_flight `keep` needs a switch in place" if situation.in_flight == "keep" else None
