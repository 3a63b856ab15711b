"""Requests that are set aside, over a scheduler's queue that is a list."""

from dataclasses import dataclass, field
from typing import Any

from gateway.engine.patches.set_aside import Aside

PROOF, PERSON, JOB = -1, 0, 100


@dataclass(eq=False)
class Request:
    priority: int
    finished: bool = False

    def is_finished(self) -> bool:
        return self.finished


class Queue(list[Request]):
    def remove_requests(self, requests: list[Request]) -> None:
        self[:] = [each for each in self if each not in requests]


@dataclass
class Scheduler:
    waiting: Queue = field(default_factory=Queue)
    deferred_waiting: set[Any] = field(default_factory=set)

    def _enqueue_waiting_request(self, request: Request) -> None:
        self.waiting.append(request)


def test_all_but_proofs_leave_the_queue_and_come_back() -> None:
    person, job, proof, late = Request(PERSON), Request(JOB), Request(PROOF), Request(PERSON)
    scheduler = Scheduler(Queue([person, job, proof]), {job})
    aside = Aside(scheduler, PROOF)
    aside.take()
    assert (scheduler.waiting, scheduler.deferred_waiting) == ([proof], set())
    scheduler.waiting.append(late)
    aside.take()
    assert scheduler.waiting == [proof]
    scheduler.waiting.clear()
    aside.put_back()
    assert scheduler.waiting == [person, job, late]
    aside.put_back()
    assert scheduler.waiting == [person, job, late], "once"


def test_who_left_meanwhile_does_not_come_back() -> None:
    stays, leaves = Request(PERSON), Request(PERSON)
    scheduler = Scheduler(Queue([stays, leaves]))
    aside = Aside(scheduler, PROOF)
    aside.take()
    leaves.finished = True
    aside.put_back()
    assert scheduler.waiting == [stays]
