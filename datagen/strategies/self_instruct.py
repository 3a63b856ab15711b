"""self_instruct: a model's own new tasks, from a few of ours (Wang et al. 2022, arXiv 2212.10560).

Of one prompt with 8 tasks in it (6 seeds, 2 of those made so far) come some new instructions. Each is taken through
the paper's steps: is it a classification; then an instance, input first, or output first for classifications, so that
the labels are not all the same; then the paper's heuristics. The rule that an instruction must be new (ROUGE-L below
0.7) is the pool's (datagen.pool). In the
domain `math` a task is a problem instead, solved and verified (datagen.solving).
"""

import asyncio
import random
import re
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field

from datagen.asking import Asking
from datagen.config import GenerationConfig
from datagen.instruction_prompts import INPUT_FIRST, IS_CLASSIFICATION, OUTPUT_FIRST, list_prompt
from datagen.records import Draft, Outcome, Rejection, Turn, prompt_sha
from datagen.seeds import SeedTask, SeedTasks, seeds_of_file, shipped_seeds
from datagen.solving import SolvePlan, Solver, chat, greedy, seed_of
from datagen.strategy import Sources
from datagen.tokens import words
from stepserve.contract import BatchItem, BatchSampling

MATH = "math"
FEWEST_WORDS, MOST_WORDS = 3, 150
FEWEST_CHARACTERS = 3
_NOT_FOR_TEXT = re.compile(
    r"\b(?:images?|graphs?|pictures?|files?|maps?|draw|plot|go to|video|audio|music|flowchart|diagram)\b", re.IGNORECASE
)
_PROGRAM = re.compile(r"^write a program\b", re.IGNORECASE)
_NUMBERED = re.compile(r"^\s*(?:[0-9]{1,3}\s*[.):]|[-*•])\s*(.+?)\s*$")
_FORM = re.IGNORECASE | re.MULTILINE | re.DOTALL
_INPUT = re.compile(r"^[^\S\n]*input\s*:", _FORM)
_OUTPUT = re.compile(r"^[^\S\n]*output\s*:", _FORM)
_LABELLED = re.compile(
    r"^[^\S\n]*(?:class )?label\s*:[^\S\n]*(?P<label>\S[^\n]*)\n\s*input\s*:(?P<input>.+?)"
    r"(?=^[^\S\n]*(?:class )?label\s*:|\Z)",
    _FORM,
)
_NO_INPUT = frozenset({"", "none", "n/a", "no input", "noinput", "<noinput>", "(none)", "-"})
_MOST_REMEMBERED = 2_000
_TOO_LONG = re.compile(r"context|maximum.*length|too long|longer than", re.IGNORECASE)


class SelfInstructConfig(GenerationConfig):
    """`seed_file`: JSONL of your own seed tasks, in the base directory. `samples`: solutions asked for a problem
    (domain math)."""

    seed_file: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    seed_demonstrations: Annotated[int, Field(ge=1, le=32)] = 6
    generated_demonstrations: Annotated[int, Field(ge=0, le=32)] = 2
    instructions_per_prompt: Annotated[int, Field(ge=1, le=32)] = 8
    instance_temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 2.0
    verify: Literal["auto", "none"] = "auto"
    samples: Annotated[int, Field(ge=1, le=64)] = 5
    keep_solutions: Annotated[int, Field(ge=1, le=4)] = 1
    majority: Annotated[float, Field(ge=0.5, le=1)] = 0.6


class SelfInstruct:
    config_model: ClassVar[type[GenerationConfig]] = SelfInstructConfig
    similarity_limit: ClassVar[float] = 0.7
    same_numbers: ClassVar[bool] = False

    def __init__(self, config: SelfInstructConfig, seeds: SeedTasks) -> None:
        self._config = config
        self._seeds = seeds.of_domain(config.domain) if config.domain else seeds.tasks
        self._is_math = config.domain.strip().casefold() == MATH and config.verify == "auto"
        self._generated: list[str] = []
        self._learnt = 0
        self._demonstrations = config.seed_demonstrations + config.generated_demonstrations
        self._chance = random.Random(seed_of(config.seed, "reservoir"))  # noqa: S311  # no secret
        self._sampling = BatchSampling(
            temperature=0.7 if config.temperature is None else config.temperature,
            top_p=0.5 if config.top_p is None else config.top_p,
            max_tokens=config.max_tokens or 1024,
            presence_penalty=config.presence_penalty,
        )
        self._instances = BatchSampling(
            temperature=config.instance_temperature, max_tokens=config.max_tokens or 300, presence_penalty=1.5
        )
        plan = SolvePlan(
            sampling=BatchSampling(temperature=0.7, max_tokens=config.max_tokens or 512),
            system_prompt=config.system_prompt,
            samples=config.samples,
            keep=config.keep_solutions,
            majority=config.majority,
        )
        self._solver = Solver(plan, config.seed)
        self.digest = seeds.digest

    @classmethod
    def open(cls, config: SelfInstructConfig, sources: Sources) -> Self:
        if config.seed_file is None:
            return cls(config, shipped_seeds())
        return cls(config, seeds_of_file(sources.file("seed_file", config.seed_file)))

    @property
    def attempts(self) -> int | None:
        return None

    async def attempt(self, number: int, ask: Asking) -> Outcome:
        asked = await self._ask_for_instructions(number, ask)
        if isinstance(asked, Rejection):
            return Outcome(rejections=[asked])
        item, instructions = asked
        if not instructions:
            return Outcome(rejections=[Rejection("no_instruction")])
        drafts: list[Draft] = []
        rejections: list[Rejection] = []
        usable: list[str] = []
        for instruction in instructions:
            unfit = objection(instruction)
            if unfit is None:
                usable.append(instruction)
            else:
                rejections.append(Rejection(unfit, {"instruction": instruction[:200]}))
        if self._is_math:
            made = [
                self._solver.solve(problem, ask, (number, place), source_id=prompt_sha(item)[:24])
                for place, problem in enumerate(usable)
            ]
            for outcome in await asyncio.gather(*made):
                drafts += outcome.drafts
                rejections += outcome.rejections
        elif usable:
            for outcome in await self._make_instances(usable, number, ask, prompt_sha(item)[:24]):
                drafts += outcome.drafts
                rejections += outcome.rejections
        return Outcome(drafts, rejections)

    def learn(self, draft_question: str, _tags: Sequence[str]) -> None:
        """A sample of bounded size of all that was accepted (reservoir sampling)."""
        instruction = draft_question.split("\n\n", 1)[0]
        self._learnt += 1
        if len(self._generated) < _MOST_REMEMBERED:
            self._generated.append(instruction)
        elif (place := self._chance.randrange(self._learnt)) < _MOST_REMEMBERED:
            self._generated[place] = instruction

    def spares(self) -> frozenset[str]:
        return frozenset()

    def facts(self) -> dict[str, Any]:
        return {"seed_tasks": len(self._seeds), "demonstrations": self._demonstrations}

    async def _ask_for_instructions(self, number: int, ask: Asking) -> tuple[BatchItem, list[str]] | Rejection:
        """With fewer demonstrations where the model's context has no room for as many; that is then kept to."""
        while True:
            shown = self._demonstrations
            item = self._prompt(number, shown)
            (output,) = await ask([item])
            if output.error is None:
                cut = output.finish_reason == "length"
                return item, parsed_instructions(output.text, self._config.instructions_per_prompt, cut=cut)
            if shown == 1 or not _TOO_LONG.search(output.error):
                return Rejection("engine_error", {"why": output.error[:200]})
            self._demonstrations = min(self._demonstrations, max(1, shown // 2))

    def _prompt(self, number: int, shown: int) -> BatchItem:
        seed = seed_of(self._config.seed, number)
        chance = random.Random(seed)  # noqa: S311  # no secret
        generated = min(self._config.generated_demonstrations, len(self._generated), max(0, shown - 1))
        tasks = [*chance.sample(self._generated, generated)]
        tasks += [task_text(task) for task in chance.sample(self._seeds, min(shown - generated, len(self._seeds)))]
        chance.shuffle(tasks)
        text = list_prompt(tasks, domain=self._config.domain, problems=self._is_math)
        return chat(text, self._sampling.model_copy(update={"seed": seed}), self._config.system_prompt)

    async def _make_instances(self, instructions: list[str], number: int, ask: Asking, source_id: str) -> list[Outcome]:
        asked = await ask([
            chat(IS_CLASSIFICATION.format(instruction=instruction), BatchSampling(max_tokens=4))
            for instruction in instructions
        ])  # fmt: skip
        labelled = [output.text.strip().casefold().startswith("yes") for output in asked]
        items = [
            chat(
                (OUTPUT_FIRST if is_labelled else INPUT_FIRST).format(instruction=instruction),
                self._seeded(number, at),
            )
            for at, (instruction, is_labelled) in enumerate(zip(instructions, labelled, strict=True))
        ]
        outcomes = []
        for instruction, is_labelled, item, output in zip(instructions, labelled, items, await ask(items), strict=True):
            if output.error is not None:
                outcomes.append(Outcome(rejections=[Rejection("engine_error", {"why": output.error[:200]})]))
                continue
            pairs = labelled_instances(output.text) if is_labelled else instances(output.text)
            pairs, why = sound(pairs)
            if not pairs:
                outcomes.append(Outcome(rejections=[Rejection(why, {"instruction": instruction[:200]})]))
                continue
            assert item.sampling is not None
            made = [
                Draft(
                    turns=(
                        Turn("user", f"{instruction}\n\n{given}" if given else instruction),
                        Turn("assistant", said),
                    ),
                    source_id=source_id,
                    prompt_sha=prompt_sha(item),
                    sampling=item.sampling,
                    finish_reason=output.finish_reason,
                    tags=("classification",) if is_labelled else (),
                )
                for given, said in [pairs[seed_of(self._config.seed, number, instruction) % len(pairs)]]
            ]
            outcomes.append(Outcome(drafts=made))
        return outcomes

    def _seeded(self, number: int, place: int) -> BatchSampling:
        if not self._instances.temperature:
            return greedy(self._instances)
        return self._instances.model_copy(update={"seed": seed_of(self._config.seed, number, place, "instance")})


def task_text(task: SeedTask) -> str:
    """A seed as a demonstration: a short input stands in it."""
    return f"{task.instruction} {task.input}" if task.input and len(task.input) <= 200 else task.instruction


def parsed_instructions(text: str, at_most: int, *, cut: bool) -> list[str]:
    """The tasks of a numbered list that goes on where the prompt stopped; its last line is dropped when it was cut off.

    Spelling is left as it is: names keep their capitals.
    """
    lines = [line for line in text.strip().splitlines() if line.strip()]
    if cut and len(lines) > 1:
        lines.pop()
    found = []
    for place, line in enumerate(lines):
        numbered = _NUMBERED.match(line)
        if numbered:
            found.append(numbered[1])
        elif place == 0:
            found.append(line.strip())
    return found[:at_most]


def objection(instruction: str) -> str | None:
    """The paper's heuristics on instructions, which letters they are written with apart."""
    count = len(words(instruction))
    if len(instruction) < FEWEST_CHARACTERS or count < FEWEST_WORDS:
        return "instruction_too_short"
    if count > MOST_WORDS:
        return "instruction_too_long"
    if _NOT_FOR_TEXT.search(instruction):
        return "instruction_not_for_text"
    if _PROGRAM.match(instruction):
        return "instruction_write_a_program"
    if not instruction[0].isalnum() and instruction[0] not in "¿¡\"'«„“「『(":
        return "instruction_begins_with_punctuation"
    return None


def instances(text: str) -> list[tuple[str, str]]:
    """(input, output) of an answer in the form that was asked for; of any other, the whole of it is the output."""
    asked = _INPUT.search(text)
    answered = None if asked is None else _OUTPUT.search(text, asked.end())
    if asked is None or answered is None:
        rest = re.sub(r"^\s*output\s*:\s*", "", text, flags=re.IGNORECASE).strip()
        return [("", rest)] if rest else []
    given, said = text[asked.end() : answered.start()].strip(), text[answered.end() :].strip()
    said = _INPUT.split(said, maxsplit=1)[0].strip()
    return [("" if given.casefold().rstrip(".") in _NO_INPUT else given, said)]


def labelled_instances(text: str) -> list[tuple[str, str]]:
    """(input, label) each."""
    return [(found["input"].strip(), found["label"].strip()) for found in _LABELLED.finditer(text)]


def sound(pairs: list[tuple[str, str]]) -> tuple[list[tuple[str, str]], str]:
    """The paper's heuristics on instances; with none left, why."""
    if not pairs:
        return [], "no_instance"
    outputs: dict[str, set[str]] = {}
    for given, said in pairs:
        outputs.setdefault(given, set()).add(said)
    kept = [pair for pair in dict.fromkeys(pairs) if len(outputs[pair[0]]) == 1]
    if not kept:
        return [], "contradicting_instances"
    told = [(given, said) for given, said in kept if said and given != said and not said.endswith(":")]
    return told, "empty_instance"
