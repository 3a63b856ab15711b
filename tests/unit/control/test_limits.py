import pytest

from control.jobs.limits import Window


@pytest.mark.parametrize(
    ("window", "of_the_model", "items"),
    [
        (Window(max_num_seqs=256, batch_items=64), None, 1024),
        (Window(max_num_seqs=256, batch_items=64), 1024, 4096),
        (Window(max_num_seqs=256, batch_items=64), 8, 128),
        (Window(max_num_seqs=256, batch_items=64, fixed_items=200), 1024, 200),
    ],
)
def test_a_window_holds_what_the_engine_has_and_as_much_on_its_way(
    window: Window, of_the_model: int | None, items: int
) -> None:
    assert window.items(of_the_model) == items
