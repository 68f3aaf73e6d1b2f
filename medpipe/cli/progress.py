"""Progress of long work on stderr: a Rich bar on a terminal, nothing that clutters a log elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


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
