"""`stepserve top` on a narrow terminal."""

import io

from rich.console import Console

from stepserve.client.commands.top import Part, drawn

JOB = "data_gen_20251122_053000_k3f9"
REMARK = "waits for step-1500 to become the active model, which step-500 is now"


def test_ids_stay_in_one_piece_and_texts_are_broken() -> None:
    columns = ["job", "model", "progress", "left", ""]
    jobs: Part = ("Jobs: 0 running, 1 waiting", columns, [[JOB, "current_checkpoint", "12/1000", "", REMARK]])
    screen = io.StringIO()
    Console(file=screen, width=80).print(drawn([jobs, ("[/red]", ["model"], [["[b]"]])]))
    lines = screen.getvalue().splitlines()
    assert any(JOB in line and "current_checkpoint" in line for line in lines)
    assert REMARK not in screen.getvalue()
    assert max(map(len, lines)) <= 80
    assert "[/red]" in screen.getvalue(), "what a name holds is no markup"
