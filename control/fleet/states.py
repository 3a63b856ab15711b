"""What a member is, from what is known of it: pure, and stored nowhere, so that it cannot contradict the facts."""

from dataclasses import dataclass

from stepserve.fleet import Committed, MemberState


@dataclass(frozen=True, slots=True)
class Facts:
    """Of one member. `silent_s`: since its last heartbeat. `left`: it said that it stops. `hold`: `drain` or `cordon`.
    `apart`: the model that jobs have it for.

    `serving`: its engine takes requests. `target`: in a rollout, what it serves once its proof is passed. `in_turn`: it
    is being switched in a rollout. `trouble`: why it could not be brought to what is committed.
    """

    silent_s: float
    left: bool = False
    hold: str | None = None
    hold_reason: str | None = None
    apart: str | None = None
    serving: bool = False
    serves: Committed | None = None
    in_flight: int = 0
    target: Committed | None = None
    in_turn: bool = False
    trouble: str | None = None


def state_of(facts: Facts, committed: Committed | None, lease_s: float) -> tuple[MemberState, str | None]:
    """The state, and why it is not `ready` where there is more to say than the state itself."""
    if facts.left:
        return "lost", "it was stopped"
    if facts.silent_s >= lease_s:
        return "lost", f"it has said nothing for {lease_s:g} s"
    if facts.hold is not None:
        return "draining" if facts.hold == "drain" and facts.in_flight else "cordoned", facts.hold_reason
    if facts.apart is not None:
        return "cordoned", f"set apart for jobs of {facts.apart} (setting fleet.job_share)"
    if facts.in_turn or _is_early(facts, committed):
        return "switching", None
    lacks = _lacks(facts, committed)
    return ("ready", None) if lacks is None else ("joining", lacks or None)


def _is_early(facts: Facts, committed: Committed | None) -> bool:
    """Whether it serves weights that are being pushed to the fleet: the model is the committed one, so nothing else
    would keep requests away from them until they are.
    """
    serves = facts.serves
    if committed is None or serves is None or serves != facts.target or serves == committed:
        return False
    return serves.model == committed.model


def _lacks(facts: Facts, committed: Committed | None) -> str | None:
    """What it lacks for requests, empty where that is on its way; None: nothing."""
    if committed is None:
        return "no model is active: POST /models/set_active"
    if facts.serves is None or facts.serves not in (committed, facts.target):
        return facts.trouble or ""
    return None if facts.serving else facts.trouble or "its engine takes no requests now"
