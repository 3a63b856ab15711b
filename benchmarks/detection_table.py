"""What was found of each fault, and how it is shown."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from rich.table import Table

from benchmarks.answer_change import Change
from stepserve.contract import Proof


@dataclass(frozen=True, slots=True)
class Seen:
    """By one proof. `mean`: the difference in nats, None where tokens or weights were refused before."""

    is_refused: bool
    mean: float | None = None

    @classmethod
    def of(cls, proof: Proof) -> "Seen":
        return cls(not proof.passed, proof.mean_abs_diff)


@dataclass(frozen=True, slots=True)
class Found:
    """`computed` is None where no reference is computed (adapters)."""

    kind: str
    where: str
    change: Change
    has_other_sums: bool | None
    weak: Seen
    recorded: Seen
    computed: Seen | None

    def line(self) -> str:
        seen = [_word(self.has_other_sums), _word(self.weak.is_refused)]
        seen += [_nats(each) for each in (self.recorded, self.computed)]
        visible = "answers change" if self.change.is_visible else "hardly any change"
        return (
            f"{self.kind}, {self.where}: {visible} ({self.change.flipped} flipped, {self.change.most:.3f});"
            f" checksums {seen[0]}, weak {seen[1]}, trainer's {seen[2]}, computed {seen[3]}"
        )


def table_of(found: Sequence[Found]) -> Table:
    """A row a kind. Counted as found are, of the faults that change answers, those that each check refuses; nats are
    the least and the most of those.
    """
    table = Table(
        "fault", "tried", "change answers", "no check", "vLLM's checksums", "proof: weak", "trainer's", "nats",
        "computed", "nats",
    )  # fmt: skip
    for kind in [*dict.fromkeys(each.kind for each in found), ""]:
        every = [each for each in found if kind in ("", each.kind)]
        visible = [each for each in every if each.change.is_visible]
        if kind == "":
            table.add_section()
        computed = [each.computed for each in visible if each.computed is not None]
        sums = [each.has_other_sums for each in visible if each.has_other_sums is not None]
        table.add_row(
            kind or "all",
            str(len(every)),
            str(len(visible)),
            _count([False for _ in visible]),
            _count(sums),
            _count([each.weak.is_refused for each in visible]),
            _count([each.recorded.is_refused for each in visible]),
            _span([each.recorded for each in visible]),
            _count([each.is_refused for each in computed]),
            _span(computed),
        )
    return table


def right_loads(proofs: Sequence[tuple[Proof, Proof]]) -> Table:
    table = Table("right loads", "refused", "nats, mean", "nats, most", "tolerance, least", "nearest to its tolerance")
    for name, column in (("trainer's", 0), ("computed", 1)):
        mine = [pair[column] for pair in proofs]
        nats = [proof.mean_abs_diff or 0.0 for proof in mine]
        allowed = [proof.tolerance or 1.0 for proof in mine]
        table.add_row(
            f"{len(mine)}, {name}",
            str(sum(not proof.passed for proof in mine)),
            f"{fmean(nats):.4f}",
            f"{max(nats):.4f}",
            f"{min(allowed):.4f}",
            f"{max(value / most for value, most in zip(nats, allowed, strict=True)):.0%}",
        )
    return table


def _count(seen: Sequence[bool]) -> str:
    return f"{sum(seen)} of {len(seen)}" if seen else "-"


def _span(seen: Sequence[Seen]) -> str:
    nats = [each.mean for each in seen if each.mean is not None]
    if not nats:
        return ""
    return f"{min(nats):.3f}" if len(nats) == 1 else f"{min(nats):.3f} to {max(nats):.3f}"


def _word(is_found: bool | None) -> str:
    return "-" if is_found is None else "yes" if is_found else "no"


def _nats(seen: Seen | None) -> str:
    if seen is None:
        return "-"
    return _word(seen.is_refused) + (f" ({seen.mean:.3f})" if seen.mean is not None else "")
