"""Runs of words as 64-bit hashes, all those of a text at once."""

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]


def ngram_hashes(letters: str, length: int) -> Hashes:
    """Of each run of `length` words, in order, of a text of one letter a word (datagen.tokens.as_letters): [n_runs].

    Runs of different lengths have different hashes, those of the same words too.
    """
    codes = np.frombuffer(letters.encode("utf-32-le"), dtype="<u4").astype(np.uint64)
    runs = len(codes) - length + 1
    if runs <= 0:
        return np.empty(0, dtype=np.uint64)
    hashes = np.full(runs, length, dtype=np.uint64)
    for at in range(length):
        hashes = _mixed(hashes * np.uint64(0x9E3779B97F4A7C15) + codes[at : at + runs])
    return hashes


def _mixed(values: Hashes) -> Hashes:
    """The finaliser of splitmix64 (Steele et al. 2014): every bit depends on every other."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
