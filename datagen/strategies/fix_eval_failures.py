"""fix_eval_failures: more of what a model got wrong, with solutions that were verified.

The failures of the dev half of an eval run that are gaps in knowledge (not truncated, unparsed or engine errors) are
the sources; the test half is never looked at. A variant of a source, with other numbers or written by the model, is
solved several times and kept when its answer can be believed (datagen.solving). A share of the examples are variants
of questions that the model passed, so that it does not forget them.
"""

import random
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field

from datagen.asking import Asking
from datagen.config import GenerationConfig, Share
from datagen.errors import Refused
from datagen.failures import FIELD, EvalRun, Source, read_eval_run
from datagen.records import Outcome, Rejection
from datagen.solving import SolvePlan, Solver, chat, seed_of
from datagen.strategy import Sources
from datagen.student import STORED, TEACHER, Student, UnsolvedBy
from datagen.tokens import words
from datagen.variants import PROMPT, with_other_numbers, written_variant
from stepserve.contract import BatchSampling

REPLAY = "replay"
DEV_QUESTION = "dev_question"
_SHOWN_SEED_TEMPERATURE = 0.9


class FixEvalFailuresConfig(GenerationConfig):
    """`samples`: solutions asked for a question; `keep_solutions`: distinct ones kept of it.

    variants: `numbers`, `model`, or `auto`: numbers where the question has some. `only_unsolved`: of the variants whose
    answer is known, only those that the student gets wrong when asked without sampling. `student`: the model that is to
    learn; without it the one that the eval was of. The job's own model is the teacher. `emit_dev_questions`: also the
    dev half's own questions; an eval of the whole dataset means nothing then.
    """

    source_eval_run_id: Annotated[str, Field(min_length=1, max_length=200)]
    samples: Annotated[int, Field(ge=1, le=64)] = 8
    keep_solutions: Annotated[int, Field(ge=1, le=4)] = 4
    majority: Annotated[float, Field(ge=0.5, le=1)] = 0.6
    replay_share: Share = 0.1
    variants: Literal["auto", "numbers", "model"] = "auto"
    only_unsolved: bool = True
    student: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    emit_dev_questions: bool = False


class FixEvalFailures:
    config_model: ClassVar[type[GenerationConfig]] = FixEvalFailuresConfig
    similarity_limit: ClassVar[float] = 0.9
    same_numbers: ClassVar[bool] = True

    def __init__(self, config: FixEvalFailuresConfig, run: EvalRun) -> None:
        """Raises Refused when there is nothing to fix."""
        if not run.failed:
            causes = ", ".join(f"{cause} {count}" for cause, count in run.triage.items()) or "no failures at all"
            raise Refused(FIELD, f"{config.source_eval_run_id} has no usable wrong answers in its dev split ({causes})")
        self._config = config
        self._run = run
        self._sampling = BatchSampling(
            temperature=1.0 if config.temperature is None else config.temperature,
            top_p=config.top_p or 1.0,
            max_tokens=config.max_tokens or 1024,
        )
        plan = SolvePlan(
            sampling=self._sampling,
            system_prompt=config.system_prompt,
            samples=config.samples,
            keep=config.keep_solutions,
            majority=config.majority,
        )
        self._solver = Solver(plan, config.seed)
        self._accepted = self._repairing = 0
        self._replayed = self._replaying = self._replays_solved = 0
        self.digest = run.digest
        self._unsolved_by = TEACHER

    @classmethod
    def open(cls, config: FixEvalFailuresConfig, sources: Sources) -> Self:
        return cls(config, read_eval_run(config.source_eval_run_id, sources.runs_dir, sources.datasets_dir))

    @property
    def student(self) -> Student | None:
        if not self._config.only_unsolved:
            return None
        if self._config.student is not None:
            return Student(self._config.student)
        if self._run.model_id is None:
            return None
        return Student(self._run.model_id, self._run.model_digest)

    def learns_of_student(self, unsolved_by: UnsolvedBy) -> None:
        self._unsolved_by = unsolved_by

    @property
    def attempts(self) -> int | None:
        return None

    async def attempt(self, number: int, ask: Asking) -> Outcome:
        if self._config.emit_dev_questions and number < len(self._run.failed):
            source = self._run.failed[number]
            tags = (DEV_QUESTION,)
            return await self._solver.solve(
                source.question, ask, (number,), source_id=source.id, gold=source.target, method="gold", tags=tags
            )
        if not self._replay_is_due:
            source = self._run.failed[number % len(self._run.failed)]
            self._repairing += 1
            try:
                asks = self._config.only_unsolved and self._unsolved_by != STORED
                return await self._vary(source, number, ask, tags=(), only_unsolved=asks)
            finally:
                self._repairing -= 1
        self._replaying += 1
        try:
            source = self._run.passed[seed_of(self._config.seed, number, REPLAY) % len(self._run.passed)]
            outcome = await self._vary(source, number, ask, tags=(REPLAY,), only_unsolved=False)
            self._replays_solved += bool(outcome.drafts)
            return outcome
        finally:
            self._replaying -= 1

    def learn(self, _question: str, tags: Sequence[str]) -> None:
        self._accepted += 1
        self._replayed += REPLAY in tags

    def spares(self) -> frozenset[str]:
        if not self._config.emit_dev_questions:
            return frozenset()
        return frozenset(source.question for source in self._run.failed)

    def facts(self) -> dict[str, Any]:
        return {
            "source_eval_run_id": self._config.source_eval_run_id,
            "split": self._run.split,
            "triage": dict(self._run.triage.most_common()),
            "failures_used": len(self._run.failed),
            "unsolved_by": self._unsolved_by if self._config.only_unsolved else None,
            "replayed": self._replayed,
        }

    @property
    def _replay_is_due(self) -> bool:
        """Replays succeed more often than repairs, so their share is that of what is accepted, not of what is tried.

        All of a job's examples may be under way before the first one is accepted: what is under way counts as accepted,
        up to the examples that are wanted.
        """
        if not self._run.passed:
            return False
        under_way = max(self._replayed, self._replays_solved) + self._replaying
        expected = min(self._accepted + self._replaying + self._repairing, self._config.num_examples)
        return under_way < self._config.replay_share * expected

    async def _vary(
        self, source: Source, number: int, ask: Asking, *, tags: tuple[str, ...], only_unsolved: bool
    ) -> Outcome:
        variant = await self._variant(source, number, ask)
        if isinstance(variant, Rejection):
            return Outcome(rejections=[variant])
        if " ".join(words(variant)) in self._run.questions:
            return Outcome(rejections=[Rejection("is_an_eval_question", {"question": variant[:200]})])
        return await self._solver.solve(
            variant, ask, (number,), source_id=source.id, tags=tags, only_unsolved=only_unsolved
        )  # fmt: skip

    async def _variant(self, source: Source, number: int, ask: Asking) -> str | Rejection:
        seed = seed_of(self._config.seed, number, "variant")
        if self._config.variants != "model":
            variant = with_other_numbers(source.question, random.Random(seed))  # noqa: S311  # no secret
            if variant is not None:
                return variant
            if self._config.variants == "numbers":
                return Rejection("no_numbers_to_change", {"question": source.question[:200]})
        sampling = self._sampling.model_copy(update={"seed": seed, "temperature": _SHOWN_SEED_TEMPERATURE})
        (output,) = await ask([chat(PROMPT.format(question=source.question), sampling)])
        if output.error is not None:
            return Rejection("engine_error", {"question": source.question[:200], "why": output.error[:200]})
        variant = written_variant(output.text, source.question)
        return variant or Rejection("no_variant", {"question": source.question[:200], "said": output.text[:200]})
