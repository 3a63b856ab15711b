"""Whether a set of keys can follow the one that this gateway has: nothing found in a database may widen access."""

from collections.abc import Iterator

from stepserve.access import KeySet

WAY_OUT = "On the server's machine, as the user it runs as: stepserve keys recover"


def objection(here: KeySet, found: KeySet) -> str | None:
    """Why `found` cannot follow `here`; None where it can.

    A set follows one of the same database with fewer changes, all of whose keys it has; a revoked one stays revoked.
    Where there were no keys any set may follow.
    """
    if not here.keys:
        return None
    return next(_objections(here, found), None)


def _objections(here: KeySet, found: KeySet) -> Iterator[str]:
    if not found.keys:
        yield f"the database has no keys, and this server had {len(here.keys)}"
    if found.epoch != here.epoch:
        yield "the database has the keys of another one"
    if found.revision < here.revision:
        yield "the database has an older state of the keys, in which a revoked one might be valid"
    later = {record.id: record for record in found.keys}
    for record in here.keys:
        if record.id not in later:
            yield f"the database lacks the key {record.id}, which this server had"
        elif record.revoked and not later[record.id].revoked:
            yield f"the key {record.id} was revoked, and in the database it is valid"
    if found.revision == here.revision and found.keys != here.keys:
        yield "the database has other keys than this server had"
