"""How much of a job is asked for and not yet answered."""

from dataclasses import dataclass

# As many items as the engine runs at once, as many again that wait in it for a place, and as many as both that are on
# their way there or back: with fewer the engine waits whenever a request of them is being scored.
_FULL_ENGINES = 4


@dataclass(frozen=True, slots=True)
class Window:
    """`fixed_items`: what the settings say, or None for a window after the engine's own size.

    `max_num_seqs` is of engines that are started as the settings say, `batch_items` the size of one request.
    """

    max_num_seqs: int
    batch_items: int
    fixed_items: int | None = None

    def items(self, max_num_seqs: int | None = None) -> int:
        """For a model whose engine runs so many sequences at once, where it has a number of its own.

        A request's items come back together, so the window never holds fewer than two requests.
        """
        if self.fixed_items is not None:
            return self.fixed_items
        return max(_FULL_ENGINES * (max_num_seqs or self.max_num_seqs), 2 * self.batch_items)
