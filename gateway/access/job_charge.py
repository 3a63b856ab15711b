"""What jobs use of the engines, charged to the keys that made them."""

from collections.abc import Iterator
from contextlib import contextmanager

from gateway.access.meter import METER, Meter
from gateway.access.usage import UsageTotals
from stepserve.access import ANONYMOUS
from stepserve.request_id import key_id


@contextmanager
def charged(usage: UsageTotals, model: str, requests: int) -> Iterator[None]:
    """Around a piece of a job's work. Tokens are counted where they are made, also of work that fails in the end.

    A job's tokens are in its key's usage and not in its rates: how much batch work runs is for the queue to say, and a
    key whose job runs may still ask something.
    """
    key = key_id.get()
    if key is None or key == ANONYMOUS:
        yield
        return
    meter = Meter(model=model)
    token = METER.set(meter)
    answered = 0
    try:
        yield
        answered = requests
    finally:
        METER.reset(token)
        usage.add(key, meter, answered)
