"""Progress bars on stderr."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from stepserve.client.results import JobNews
from stepserve.client.results import Progress as JobProgress
from stepserve.client.words import duration


@contextmanager
def job_bar(job_id: str) -> Iterator[Callable[[JobNews], None]]:
    """Yields what shows a job's news. The bar appears with the first: a job that is not there gets none."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[pace]}"),
        TimeElapsedColumn(),
    )
    bar = Progress(*columns, console=Console(stderr=True))
    task: TaskID | None = None
    waiting_for: str | None = None

    def show(news: JobNews) -> None:
        nonlocal task, waiting_for
        if task is None:
            bar.start()
            task = bar.add_task(job_id, total=None, pace="")
        if news.job is not None:
            waiting_for = news.job.waiting_for
        text = f"{job_id} {news.status}" + (f", waits for {waiting_for}" if waiting_for else "")
        progress = news.progress
        bar.update(task, description=text, completed=progress.done, total=progress.total, pace=_pace(progress))

    try:
        yield show
    finally:
        if task is not None:
            bar.stop()


@contextmanager
def bytes_bar(name: str) -> Iterator[Callable[[int, int], None]]:
    """Yields what shows (bytes there, bytes in all), from any thread."""
    columns = (TextColumn(name), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=None)
        yield lambda there, total: bar.update(task, completed=there, total=total)


def _pace(progress: JobProgress) -> str:
    parts = []
    if progress.rate_per_s:
        parts.append(f"{progress.rate_per_s:.1f}/s")
    if progress.eta_s is not None:
        parts.append(f"{duration(progress.eta_s)} left")
    return ", ".join(parts)
