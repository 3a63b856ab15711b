"""The order in which columns are made: every one after those that it needs."""

from collections.abc import Collection, Mapping


class Cycle(Exception):
    """`names`: each needs the next, and the last one the first."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(" needs ".join([*names, names[0]]))
        self.names = names


def in_order(needs: Mapping[str, Collection[str]]) -> list[str]:
    """The names, as near to their own order as what each needs allows. Raises Cycle.

    Every name that is needed is a key.
    """
    waiting = dict(needs)
    made: dict[str, None] = {}
    while waiting:
        ready = next((name for name, needed in waiting.items() if made.keys() >= set(needed)), None)
        if ready is None:
            raise Cycle(_cycle(waiting))
        made[ready] = None
        del waiting[ready]
    return list(made)


def ancestors(names: Collection[str], needs: Mapping[str, Collection[str]]) -> set[str]:
    """These and all that they need."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += needs[name]
    return found


def descendants(name: str, needs: Mapping[str, Collection[str]]) -> set[str]:
    """All that need it, by way of others too."""
    return {each for each in needs if each != name and name in ancestors([each], needs)}


def _cycle(waiting: Mapping[str, Collection[str]]) -> list[str]:
    """Every one of these needs another one of these."""
    path = [next(iter(waiting))]
    while True:
        following = next(name for name in waiting[path[-1]] if name in waiting)
        if following in path:
            return path[path.index(following) :]
        path.append(following)
