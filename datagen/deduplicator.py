"""Decides, one draft after the other, which become examples: not test questions, and not known yet."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from datagen.decontamination import ContaminationIndex
from datagen.pool import Pool
from datagen.records import Draft, Origin, Rejection, record_of, subject
from datagen.similarity import Fingerprint


@dataclass(slots=True)
class Verdict:
    accepted: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)


@dataclass(slots=True)
class Deduplicator:
    """`limit`: a question nearer than that to a known one is not new. Every method blocks."""

    origin: Origin
    contamination: ContaminationIndex | None
    pool: Pool
    limit: float
    spared: frozenset[str]

    def judge(self, drafts: Iterable[Draft], room: int, created_at: str) -> Verdict:
        """Of one attempt: solutions of one question pass or fall together. At most `room` are accepted."""
        verdict = Verdict()
        similarity_of: dict[str, float] = {}
        seen: set[str] = set()
        for draft in drafts:
            if draft.sha in seen:
                verdict.rejected.append(Rejection("duplicate", {"question": draft.question[:200]}))
                continue
            seen.add(draft.sha)
            if (rejection := self._leak(draft)) is not None:
                verdict.rejected.append(rejection)
                continue
            if draft.question not in similarity_of:
                question = Fingerprint(subject(draft.question, self.origin.strategy))
                familiar = self.pool.nearest(question)
                if familiar.nearest.similarity >= self.limit:
                    verdict.rejected.append(
                        _known(draft, familiar.place, familiar.nearest.similarity, familiar.nearest.id)
                    )
                    continue
                similarity_of[draft.question] = familiar.nearest.similarity
                if len(verdict.accepted) < room:
                    self.pool.add([(draft.sha[:24], question)])
            if len(verdict.accepted) < room:
                verdict.accepted.append(
                    record_of(draft, self.origin, created_at=created_at, max_similarity=similarity_of[draft.question])
                )
        return verdict

    def _leak(self, draft: Draft) -> Rejection | None:
        if self.contamination is None or draft.question in self.spared:
            return None
        hit = self.contamination.hit(*(turn.content for turn in draft.turns if turn.role != "system"))
        if hit is None:
            return None
        detail = {"question": draft.question[:200], "dataset": hit.dataset, "sample": str(hit.sample)}
        return Rejection("contaminated", detail)


def _known(draft: Draft, place: str, similarity: float, id_: str) -> Rejection:
    same = similarity == 1.0
    reason = ("duplicate" if same else "near_duplicate") + ("" if place == "job" else "_of_earlier_shard")
    return Rejection(reason, {"question": draft.question[:200], "like": id_, "similarity": f"{similarity:.2f}"})
