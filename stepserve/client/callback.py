"""StepserveCallback: the hook for transformers' Trainer and everything built on it, TRL's trainers too."""

import copy
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from stepserve.client.client import Client
from stepserve.client.hook import CheckpointHook, Metrics
from stepserve.client.probe import probe_of

log = logging.getLogger(__name__)


class StepserveCallback:
    """`Trainer(..., callbacks=[StepserveCallback("my-run", activate=True, evals=["math_eval.jsonl"])])`.

    Options are those of CheckpointHook. `probe`: with each checkpoint goes what the model in memory says of a few
    prompts, and the server proves that it serves just that; left out where the weights are spread over ranks.
    `push="weights"`: in the place of checkpoints, every `every` steps the weights in memory go into the model that
    serves, and the training waits for that; nothing is registered, and options of CheckpointHook but `client` and
    `retry_s` say nothing then. `delta`: of them only what changed since the last push, as `Client.push_weights` does.
    `drain_s`: how long the end of the training waits for pushes and evals.

    Results are logged at the step that they belong to: in `state.log_history`, and after `attach(trainer)` by the
    trainer's other callbacks too (TensorBoard, W&B), where they show as `eval/<dataset>/<metric>`.

    Made without transformers, which calls `on_…` methods by name: those not here do nothing.
    """

    def __init__(
        self,
        run: str | None = None,
        *,
        probe: bool = True,
        drain_s: float = 1800.0,
        push: Literal["checkpoints", "weights"] = "checkpoints",
        every: int = 1,
        delta: bool = False,
        **options: Any,
    ) -> None:
        if push not in ("checkpoints", "weights"):
            raise ValueError(f"push must be checkpoints or weights, not {push!r}")
        if every < 1:
            raise ValueError(f"every must be 1 or more, not {every}")
        if delta and push != "weights":
            raise ValueError('delta=True is for push="weights": checkpoints are sent as files')
        self._pushes_weights = push == "weights"
        self._delta = delta
        self._every = every
        self._client: Client | None = None
        self._run = run
        self._probe = probe
        self._drain_s = drain_s
        self._options = options
        self._hook: CheckpointHook | None = None
        self._trainer: Any = None

    def attach(self, trainer: Any) -> "StepserveCallback":
        """Has the trainer's other callbacks log the results."""
        self._trainer = trainer
        return self

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero or self._pushes_weights:
            return
        started_s = time.monotonic()
        try:
            path = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            self._hook_of(args).saved(path, state.global_step, self._probed(args, kwargs))
        except Exception:
            # The boundary to the training: whatever goes wrong here must not end it.
            log.exception("the checkpoint of step %d is not sent", state.global_step)
        self._log_results(args, state, control)
        log.debug("on_save took %.0f ms", (time.monotonic() - started_s) * 1000)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._pushes_weights and state.is_world_process_zero and state.global_step % self._every == 0:
            self._push_weights(args, state.global_step, kwargs)
        self._log_results(args, state, control)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._hook is not None:
            self._hook.close(self._drain_s)
            self._log_results(args, state, control)
        if self._client is not None and self._options.get("client") is None:
            self._client.close()
            self._client = None

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("on_"):
            return _nothing
        raise AttributeError(name)

    def _push_weights(self, args: Any, step: int, kwargs: dict[str, Any]) -> None:
        run = Path(self._run or getattr(args, "run_name", None) or Path(args.output_dir).resolve()).name
        try:
            if self._client is None:
                retry_s = {"retry_s": self._options["retry_s"]} if "retry_s" in self._options else {}
                self._client = self._options.get("client") or Client(**retry_s)
            probe = self._probed(args, kwargs)
            version = f"{run}-step-{step}"
            pushed = self._client.push_weights(kwargs["model"], version=version, probe=probe, delta=self._delta)
        except Exception:
            # The boundary to the training, as in on_save.
            log.exception("the weights of step %d are not on the server", step)
            return
        log.info("step %d serves as version %d (%.0f ms paused)", step, pushed.version, pushed.paused_ms)

    def _hook_of(self, args: Any) -> CheckpointHook:
        if self._hook is None:
            run = self._run or getattr(args, "run_name", None) or Path(args.output_dir).resolve().name
            self._hook = CheckpointHook(Path(run).name, **self._options)
        return self._hook

    def _probed(self, args: Any, kwargs: dict[str, Any]) -> dict[str, Any] | None:
        """A probe that cannot be taken is left out: the server computes its own, or proves less."""
        model = kwargs.get("model")
        tokenizer = kwargs.get("processing_class") or kwargs.get("tokenizer")
        spread = getattr(args, "deepspeed", None) or getattr(args, "fsdp", None)
        if not self._probe or model is None or tokenizer is None or spread:
            return None
        try:
            return probe_of(model, tokenizer)
        except Exception:
            # As above: models and tokenizers of all kinds come by here.
            log.warning("no probe of this checkpoint", exc_info=True)
            return None

    def _log_results(self, args: Any, state: Any, control: Any) -> None:
        if self._hook is None or not state.is_world_process_zero:
            return
        for metrics in self._hook.results():
            self._log(metrics, args, state, control)

    def _log(self, metrics: Metrics, args: Any, state: Any, control: Any) -> None:
        """In transformers' own spelling: its reporters show `eval_x` as `eval/x`."""
        logs = {name.replace("eval/", "eval_", 1): value for name, value in metrics.values.items()}
        log.info("step %d: %s", metrics.step, logs)
        state.log_history.append({**logs, "step": metrics.step})
        if self._trainer is None:
            return
        then = copy.copy(state)
        then.global_step = metrics.step
        for callback in self._trainer.callback_handler.callbacks:
            if callback is self:
                continue
            try:
                callback.on_log(args, then, control, logs=dict(logs))
            except Exception:
                # Somebody else's reporter, at a moment that it may not expect.
                log.warning("%s does not log the results", type(callback).__name__, exc_info=True)


def _nothing(*_args: Any, **_kwargs: Any) -> None:
    return None
