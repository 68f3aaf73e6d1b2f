"""Progress of long work on stderr: a Rich bar on a terminal, nothing that clutters a log elsewhere."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from medpipe.training.journal import Standing, Tell


class Advance:
    """Called with the fraction (0..1) of the input at hand; `done` goes to the next input."""

    def __call__(self, fraction: float) -> None:
        """No terminal, no bar."""

    def done(self) -> None:
        """The input at hand is finished."""


@contextmanager
def bar(total: int) -> Iterator[Advance]:
    """A progress bar over `total` inputs where stderr is a terminal."""
    if not sys.stderr.isatty():
        yield Advance()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    progress = Progress(
        TextColumn("processing"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    task = progress.add_task("processing", total=total)

    class Shown(Advance):
        finished = 0

        def __call__(self, fraction: float) -> None:
            progress.update(task, completed=self.finished + fraction)

        def done(self) -> None:
            self.finished += 1
            progress.update(task, completed=self.finished)

    with progress:
        yield Shown()


@contextmanager
def training_bar() -> Iterator[Tell | None]:
    """Steps, loss, patches per second and time left of a training where stderr is a terminal.

    Elsewhere the log's lines, one in 50 steps, say the same; on a terminal they are left out, the others pass above.
    """
    if not sys.stderr.isatty() or os.environ.get("RANK", "0") != "0":  # of torchrun's processes one speaks
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    console = Console(stderr=True)
    progress = Progress(
        TextColumn("training"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[standing]}"),
        console=console,
    )
    task = progress.add_task("training", total=1.0, standing="")

    def tell(standing: Standing) -> None:
        progress.update(task, completed=min(1.0, standing.done), standing=in_words(standing))

    with _logged_above(console), progress:
        yield tell


def in_words(standing: Standing) -> str:
    """A run's standing in one short line."""
    left = standing.seconds_left
    words = [
        f"step {standing.steps}",
        f"loss {standing.loss:.4f}",
        f"{standing.patches_per_second:.1f} patches/s",
    ]
    if left is not None:
        minutes, seconds = divmod(round(left), 60)
        hours, minutes = divmod(minutes, 60)
        words.append(f"{hours}:{minutes:02}:{seconds:02} left")
    return " · ".join(words)


@contextmanager
def _logged_above(console: Console) -> Iterator[None]:
    """Log lines are written above a bar, not into it; but for those that the bar shows itself."""
    from rich.logging import RichHandler

    def not_a_step(record: logging.LogRecord) -> bool:
        return not (isinstance(record.args, tuple) and record.args[:1] == ("train",))

    root = logging.getLogger()
    before = root.handlers[:]
    handler = RichHandler(console=console, show_path=False)
    handler.addFilter(not_a_step)
    root.handlers[:] = [handler]
    try:
        yield
    finally:
        root.handlers[:] = before
