"""unit_tests: the reply's code passes the row's tests in the sandbox of evals."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Self

from pydantic import Field

from datagen.asking import Asking
from datagen.errors import Refused
from datagen.strategy import Sources
from datagen.verifier import Candidate, Verdict, VerifierConfig
from evals.programs import program_of
from evals.sample import CodeTask
from evals.sandbox import Sandbox, SandboxLimits, why_no_sandbox


class UnitTestsConfig(VerifierConfig):
    """The row's `tests_field` has the tests: Python that raises where the code is wrong; `entry_point_field` the name
    of the function that they are about, where it has one."""

    tests_field: Annotated[str, Field(min_length=1, max_length=200)] = "tests"
    entry_point_field: Annotated[str, Field(min_length=1, max_length=200)] = "entry_point"
    timeout_s: Annotated[float, Field(gt=0, le=60)] = 10.0


class UnitTests:
    config_model: ClassVar[type[VerifierConfig]] = UnitTestsConfig
    models: Sequence[str] = ()

    def __init__(self, config: UnitTestsConfig) -> None:
        self._config = config
        self._sandbox = Sandbox(SandboxLimits(wall_s=config.timeout_s))

    @classmethod
    def open(cls, config: UnitTestsConfig, sources: Sources) -> Self:
        if sources.new and (reason := why_no_sandbox()) is not None:
            raise Refused("name", reason)
        return cls(config)

    async def verify(self, candidate: Candidate, ask: Asking) -> Verdict:
        tests = candidate.row.get(self._config.tests_field)
        if isinstance(tests, list):
            tests = "\n".join(map(str, tests))
        if not isinstance(tests, str) or not tests.strip():
            return Verdict(passed=False, score=0.0, why=f"the row has no tests in {self._config.tests_field!r}")
        entry = str(candidate.row.get(self._config.entry_point_field) or "")
        task = CodeTask(before="", after=f"{tests}\n", stub="", entry_point=entry if entry.isidentifier() else None)
        end = await self._sandbox.run(program_of(candidate.reply, task))
        return Verdict(passed=end.passed, score=float(end.passed), why="" if end.passed else end.detail[:200])
