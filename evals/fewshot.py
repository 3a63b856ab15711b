"""Worked examples before a question: the same ones for every question and every checkpoint."""

import random
from io import BufferedReader

from evals.datasets import FieldMap, read_samples
from evals.sample import AnswerIs, Sample

POOL_SAMPLES = 1000
"""Examples are drawn from the first so many samples, whatever `max_samples` is."""


def draw_shots(
    stream: BufferedReader,
    file: str,
    count: int,
    seed: int,
    field_map: FieldMap | None,
    answer_is: AnswerIs | None = None,
) -> list[Sample]:
    """`count` samples and one to spare (a question is never its own example), in an order that `seed` decides.

    Blocks; raises DatasetBroken.
    """
    if count == 0:
        return []
    pool = list(read_samples(stream, file, POOL_SAMPLES, field_map, answer_is=answer_is))
    return random.Random(seed).sample(pool, min(count + 1, len(pool)))  # noqa: S311  # no secret
