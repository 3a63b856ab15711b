"""Which cores each rank computes on."""

import pytest

from gateway.engine.cores import Core, binding


def machine(nodes: int, cores: int, threads: int) -> list[Core]:
    """Numbered as Linux does: first one logical processor of every core, then the second ones."""
    physical = [(node * cores + core, node) for node in range(nodes) for core in range(cores)]
    return [
        Core(thread * len(physical) + number, number, node) for thread in range(threads) for number, node in physical
    ]


@pytest.mark.parametrize(
    ("ranks", "cores", "expected"),
    [
        (1, machine(1, 2, 1), None),
        (2, machine(1, 2, 1), "0|1"),
        (2, machine(2, 4, 2), None),
        (4, machine(2, 4, 1), "0,1|2,3|4,5|6,7"),
        (2, machine(1, 4, 2), "4,5|6,7"),
        (2, machine(1, 1, 2), "0|1"),
        (3, machine(1, 4, 1), "0,1|2|3"),
    ],
)
def test_cores_are_shared_out(ranks: int, cores: list[Core], expected: str | None) -> None:
    assert binding(ranks, cores) == expected


def test_fewer_cores_than_ranks() -> None:
    with pytest.raises(ValueError, match="3 ranks need as many cores, and there are 2"):
        binding(3, machine(1, 2, 1))
