"""The whole loop on a running server, without a hand: `python -m demo.loop` (`make run` in another terminal).

It begins with an early demo checkpoint. Each round the model that serves is examined, the server makes verified
examples of what it got wrong, a trainer takes those from the inbox, trains the checkpoint on and pushes the new one,
and a promotion lets it take the switch: only where it is shown to be better on the sealed questions. Those are
additions that the checkpoint was never trained on: the exam has none of them, and each round the loop looks that no
example is one. The model that was active before is active again at the end.
"""

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from transformers.utils.logging import disable_progress_bar

from datagen.tokens import words
from demo.addition import Addition, exam, split
from demo.loop_rounds import Measured, Round, table, told
from demo.shard_training import Example, examples_of, go_on
from demo.visit import Visit
from stepserve import Client
from stepserve.client.errors import StepserveError
from stepserve.client.results import Job, MadeJob, Promotion

EARLY = Path(__file__).parent / "checkpoints" / "step-0300"
EARLY_STEP = 300
EXAM, SEALED = "loop_exam.jsonl", "math_eval.jsonl"
GOAL = 0.99
ALPHA = 0.05
_MOST_TOKENS = 8
_SAMPLES = 16  # solutions that the model tries of each question
_ATTEMPTS = 40  # an example: of a good model's questions few are unsolved
_REPLAY_SHARE = 0.3  # of the examples: what it could do already, so that it does not forget
_BATCH, _PEAK_LR = 64, 1e-4  # gentle, so that there is something left for the next round
_SWITCHES = "activate"
_EXIT_INTERRUPTED = 130


class Stopped(Exception):
    """The loop does not go on: a candidate is not better, or a sealed question is among the examples."""


@dataclass(frozen=True, slots=True)
class Plan:
    """`examples`: asked for in each round; `epochs`: of training over the examples of all rounds so far, round by round
    (the last for all later ones); `exam`, `sealed`: at most so many questions.
    """

    rounds: int = 3
    examples: int = 120
    epochs: tuple[int, ...] = (5, 5, 15)  # few failures are left in the end, and each of their examples counts
    exam: int = 600
    sealed: int = 600


@dataclass(slots=True)
class Loop:
    """`model` serves, and `checkpoint` is what it was pushed from. `folder` is for what is trained here."""

    client: Client
    visit: Visit
    plan: Plan
    folder: Path
    name: str
    model: str = ""
    checkpoint: Path = EARLY
    step: int = EARLY_STEP
    learnt: list[Example] = field(default_factory=list)

    def begin(self) -> None:
        """Both sets of questions are there, and the early checkpoint serves."""
        _, sealed = split()
        self.client.put_dataset(SEALED, _lines(sealed))
        self.client.put_dataset(EXAM, _lines(exam(), split="dev"))
        self.model = f"{self.name}-0"
        self.visit.push(EARLY, self.model, source="demo.loop", step=self.step, activate=True)

    def round(self, number: int) -> Round:
        """Raises Stopped when its candidate is not promoted, StepserveError."""
        seconds: dict[str, float] = {}
        with _timed(seconds, "eval"):
            asked = self.client.eval_job(
                self.model, self.name, EXAM, max_samples=self.plan.exam, max_tokens=_MOST_TOKENS
            )
            examined = self._done(asked)
        with _timed(seconds, "data_gen"):
            made = self._made(examined.id, seed=number)
        with _timed(seconds, "train"):
            examples = self._taken(made.id)
            leaked = _sealed_in(examples)
            if leaked:
                raise Stopped(f"Round {number}: {leaked} of {len(examples)} examples are sealed questions.")
            self.learnt += examples
            candidate, folder = f"{self.name}-{number}", self.folder / str(number)
            epochs = self.plan.epochs[min(number, len(self.plan.epochs)) - 1]
            steps = max(1, epochs * len(self.learnt) // _BATCH)
            probe = go_on(self.checkpoint, folder, self.learnt, steps=steps, batch_size=_BATCH, peak_lr=_PEAK_LR)
            self.step += steps
        with _timed(seconds, "push"):
            self.visit.push(folder, candidate, source="demo.loop", step=self.step, probe=probe)
        with _timed(seconds, "promote"):
            promotion = self._promoted(number, candidate)
        (metric,) = promotion.per_metric or [{}]
        questions = metric["samples_used"]
        before = Measured.of(self.model, metric["a"], questions)
        self.model, self.checkpoint = candidate, folder
        return Round(
            number=number,
            before=before,
            after=Measured.of(candidate, metric["b"], questions),
            p=metric["p"],
            fixed=metric["fixed"],
            broken=metric["broken"],
            exam_accuracy=(examined.result or {})["accuracy"],
            examples=len(examples),
            replayed=(made.result or {})["replayed"],
            sealed_among_examples=leaked,
            jobs={"eval": examined.id, "data_gen": made.id, "promotion": promotion.id},
            seconds=seconds,
        )

    def _made(self, eval_id: str, seed: int) -> Job:
        """Variants of failed questions, solved by the model itself; an answer is believed when it is worked out."""
        config = {
            "source_eval_run_id": eval_id,
            "domain": "math",
            "num_examples": self.plan.examples,
            "samples": _SAMPLES,
            "max_tokens": _MOST_TOKENS,
            "replay_share": _REPLAY_SHARE,
            "max_attempts": _ATTEMPTS * self.plan.examples,
            "seed": seed,
            "against_earlier_shards": False,  # a second run makes what the first one did
        }
        return self._done(self.client.datagen_job(self.model, "fix_eval_failures", config))

    def _taken(self, job_id: str) -> list[Example]:
        """Each shard is claimed, downloaded, and acknowledged when the next one is asked for."""
        return [
            example
            for shard in self.client.shards(job_id=job_id, claimed_by="demo.loop")
            for example in examples_of([shard.path])
        ]

    def _promoted(self, number: int, candidate: str) -> Promotion:
        """All sealed questions are asked of both and tested once, so that accuracies of all rounds can be compared."""
        suite = [{"dataset_ref": SEALED, "metric": "accuracy", "max_tokens": _MOST_TOKENS}]
        made = self.client.promote(
            candidate,
            suite,
            rule={"test": "superior", "alpha": ALPHA},
            sequential=False,
            max_samples=self.plan.sealed,
            on_pass=_SWITCHES,
        )
        self._done(made)
        found = self.client.get_promotion(made.job_id)
        if found.decision != "promoted":
            reasons = "; ".join(found.reasons or [])
            raise Stopped(f"Round {number}: {candidate} is not promoted, but {found.decision}: {reasons}.")
        switch = found.activation or {}
        if switch.get("status") != "activated":
            why = f": {switch['error']}" if switch.get("error") else ""
            raise Stopped(f"Round {number}: {candidate} is promoted, and its switch is {switch.get('status')}{why}.")
        return found

    def _done(self, made: MadeJob) -> Job:
        return self.client.wait_for_job(made.job_id)


def run(client: Client, plan: Plan, name: str) -> Generator[Round, None, None]:
    """Each round when it is over, until all are or a model has reached GOAL. Raises Stopped, StepserveError.

    The models are `<name>-0`, which is the early checkpoint, to `<name>-<rounds>`. They are gone at the end, and where
    the iterator is closed.
    """
    with tempfile.TemporaryDirectory() as folder, Visit(client) as visit:
        loop = Loop(client, visit, plan, Path(folder), name)
        loop.begin()
        for number in range(1, plan.rounds + 1):
            found = loop.round(number)
            yield found
            if found.after.accuracy >= GOAL:
                return


def _lines(additions: Sequence[Addition], **more: str) -> bytes:
    rows = ({"question": each.question, "answer": each.answer, **more} for each in additions)
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _sealed_in(examples: Sequence[Example]) -> int:
    sealed = {" ".join(words(addition.question)) for addition in split()[1]}
    return sum(" ".join(words(example.question)) in sealed for example in examples)


@contextmanager
def _timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    began_s = time.monotonic()
    yield
    seconds[part] = round(time.monotonic() - began_s, 1)


def _write(results: Path, plan: Plan, rounds: Sequence[Round]) -> None:
    content: dict[str, Any] = {
        "plan": asdict(plan),
        "goal": GOAL,
        "alpha": ALPHA,
        "dataset": SEALED,
        "rounds": [asdict(one) for one in rounds],
    }
    results.write_text(json.dumps(content, indent=2) + "\n")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


def main(arguments: Sequence[str] | None = None) -> None:
    plan = Plan()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="the server (default: INFERENCE_URL, or INFERENCE_HOST and INFERENCE_PORT)")
    parser.add_argument("--rounds", type=_positive, default=plan.rounds, help="at most; it ends at the goal")
    parser.add_argument("--examples", type=_positive, default=plan.examples, help="asked for in each round")
    parser.add_argument(
        "--epochs",
        type=_positive,
        nargs="+",
        default=plan.epochs,
        help="of training, round by round, over all examples",
    )
    parser.add_argument("--exam", type=_positive, default=plan.exam, help="questions of the exam, 600 at most")
    parser.add_argument("--sealed", type=_positive, default=plan.sealed, help="sealed questions, 600 at most")
    parser.add_argument("--name", help="what the models' ids begin with (default: loop and the time)")
    parser.add_argument("--results", type=Path, help="a file for all numbers as JSON")
    args = parser.parse_args(arguments)
    if args.results is not None and not args.results.parent.is_dir():
        parser.error(f"--results: the folder {args.results.parent} does not exist")
    plan = Plan(args.rounds, args.examples, tuple(args.epochs), args.exam, args.sealed)
    name = args.name or time.strftime("loop-%Y%m%d-%H%M%S")
    disable_progress_bar()
    rounds: list[Round] = []
    ended: str | int = 0
    try:
        with Client(args.url) as client, closing(run(client, plan, name)) as going:
            for one in going:
                rounds.append(one)
                print(told(one), flush=True)
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        ended = _EXIT_INTERRUPTED
    except (Stopped, StepserveError, OSError) as error:
        ended = str(error)
    if rounds:
        print(table(rounds))
        try:
            if args.results is not None:
                _write(args.results, plan, rounds)
        except OSError as error:
            ended = ended or f"--results: {error}"
        if ended == 0:
            reached = "is reached" if rounds[-1].after.accuracy >= GOAL else "is not reached yet"
            print(f"Each model was shown to be better than the one before (p at most {ALPHA}); {GOAL:.0%} {reached}.")
    sys.exit(ended)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does
    main()
