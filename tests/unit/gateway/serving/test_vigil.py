"""When an engine is taken for dead, by a clock that the tests turn."""

from dataclasses import dataclass, field

from gateway.serving.vigil import Verdict, Vigil


@dataclass
class Night:
    """An engine and the vigil over it: one look a second, unless the event loop is held up."""

    vigil: Vigil = field(default_factory=lambda: Vigil(every_s=10.0, deadline_s=30.0, tick_s=1.0))
    now_s: float = 1000.0
    progress: int = 0
    asked: bool = False
    suspended: bool = False

    def look(self, after_s: float = 1.0) -> Verdict:
        self.now_s += after_s
        verdict = self.vigil.look(self.now_s, self.progress, asked=self.asked, suspended=self.suspended)
        self.asked = self.asked or verdict == "ask"
        return verdict

    def until_told(self, most_s: int = 1000) -> tuple[int, Verdict]:
        """After how many seconds something else than `well` was said."""
        for second in range(1, most_s):
            if (verdict := self.look()) != "well":
                return second, verdict
        return most_s, "well"


def test_an_idle_engine_is_asked_and_one_that_does_not_answer_hangs() -> None:
    night = Night()
    night.look()
    assert night.until_told() == (10, "ask")
    assert night.until_told() == (30, "hangs")


def test_an_engine_that_answers_is_left_alone_until_it_is_time_again() -> None:
    night = Night()
    night.look()
    night.until_told()
    night.progress += 1
    night.asked = False
    assert night.look() == "well"
    assert night.until_told() == (10, "ask")


def test_an_engine_that_makes_steps_is_not_asked() -> None:
    night = Night()
    for _ in range(500):
        night.progress += 1
        assert night.look() == "well"
        assert not night.asked


def test_a_question_may_wait_in_the_queue_of_a_full_engine_for_as_long_as_others_are_answered() -> None:
    night = Night(asked=True)
    for second in range(500):
        night.progress += second % 20 == 0
        assert night.look() == "well"
    assert night.until_told()[1] == "hangs", "and one that stops then is found"


def test_a_front_end_that_is_held_up_does_not_make_its_engine_dead() -> None:
    night = Night(asked=True)
    night.look()
    for _ in range(14):
        assert night.look(after_s=35.0) == "well", "answers lie unread while the event loop is held up"


def test_an_engine_that_hangs_behind_a_busy_front_end_is_found_all_the_same() -> None:
    night = Night()
    verdicts = [night.look(after_s=2.5) for _ in range(30)]
    assert "hangs" in verdicts


def test_nothing_counts_while_a_switch_keeps_the_engine_busy() -> None:
    night = Night(asked=True)
    night.look()
    for _ in range(29):
        night.look()
    night.suspended = True
    for _ in range(500):
        assert night.look() == "well"
    night.suspended = night.asked = False
    assert night.until_told() == (10, "ask"), "it begins anew"
