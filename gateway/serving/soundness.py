"""Whether a slot's answers can be trusted: by its last proof, and by numbers that were not finite since."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from stepserve.contract import Proof, SlotHealth


def spoils_cache(proof: Proof) -> bool:
    """Whether what was computed for a failed proof may not be finite: it stays in the blocks of the KV cache, and the
    CPU's attention multiplies what stands in unused rows by zero, where NaN stays NaN.
    """
    return not proof.passed and proof.mean_abs_diff is None


@dataclass(slots=True)
class Soundness:
    """`not_finite` says how many answers the engine has refused in its life because they were not finite numbers."""

    not_finite: Callable[[], int]
    proof: Proof | None = field(default=None, init=False)
    proved_at: str | None = field(default=None, init=False)
    _forgiven: int = field(default=0, init=False)

    def note(self, proof: Proof) -> None:
        """How a proof of the model as it serves ended; one that is passed clears all that was held against it."""
        self.proof = proof
        self.proved_at = datetime.now(UTC).isoformat(timespec="seconds")
        if proof.passed:
            self._forgiven = self.not_finite()

    @property
    def health(self) -> SlotHealth:
        if self.proof is not None and not self.proof.passed:
            return "failed"
        return "suspect" if self.not_finite() > self._forgiven else "ok"

    @property
    def fault(self) -> str | None:
        """Why `health` is not ok, for a person."""
        if self.proof is not None and not self.proof.passed:
            return f"the proof of the model that serves was not passed: {self.proof.reason}"
        if (refused := self.not_finite() - self._forgiven) > 0:
            return f"{refused} answers since the last proof were refused: their numbers were not finite"
        return None
