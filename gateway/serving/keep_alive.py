"""For how long a model that is not active stays loaded when nobody uses it."""

from collections.abc import Collection
from dataclasses import dataclass, field

_REMEMBERED = 256  # models that are not loaded


@dataclass(slots=True)
class KeepAlives:
    """Seconds by model id; negative: it stays, also where another model needs its place; None: it stays until then.

    What a client said of a model counts before what it was registered with, until the model leaves; then the default.
    """

    default_s: float | None = None
    _registered: dict[str, float] = field(default_factory=dict, init=False)
    _said: dict[str, float] = field(default_factory=dict, init=False)

    def register(self, model_id: str, keep_alive_s: float | None) -> None:
        """`keep_alive_s`: what it is registered with; None: nothing."""
        self._registered.pop(model_id, None)
        if keep_alive_s is not None:
            self._registered[model_id] = keep_alive_s

    def change(self, model_id: str, keep_alive_s: float | None) -> None:
        """As `register`, which a person asked for now: what clients said before counts no more."""
        self.register(model_id, keep_alive_s)
        self._said.pop(model_id, None)

    def say(self, model_id: str, keep_alive_s: float) -> None:
        self._said[model_id] = keep_alive_s

    def forget_the_gone(self, loaded: Collection[str]) -> None:
        """What clients said of models that are not loaded, and the oldest of what such are registered with."""
        self._said = {name: said_s for name, said_s in self._said.items() if name in loaded}
        gone = [name for name in self._registered if name not in loaded]
        for name in gone[: max(0, len(gone) - _REMEMBERED)]:
            del self._registered[name]

    def of(self, model_id: str) -> float | None:
        return self._said.get(model_id, self._registered.get(model_id, self.default_s))

    def is_for_ever(self, model_id: str) -> bool:
        kept_s = self.of(model_id)
        return kept_s is not None and kept_s < 0

    def is_over(self, model_id: str, idle_s: float) -> bool:
        kept_s = self.of(model_id)
        return kept_s is not None and 0 <= kept_s <= idle_s
