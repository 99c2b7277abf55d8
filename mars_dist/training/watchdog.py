"""A step that does not end tells where it hangs: the stacks of every worker, in files beside its checkpoints."""

import faulthandler
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread

from mars_dist.training.run import CHECKPOINTS, Run

HANGS_AFTER = 300.0
"""Seconds without a finished step. What compiles or validates for longer is told too; nothing is stopped."""


@contextmanager
def watchdog(run: Run) -> Iterator[Callable[[], None]]:
    """Write this worker's stacks to stacks-RANK.txt once nothing was heard for so long; call what is given each step.

    Where the workers wait for each other, the one whose stack differs is the one that they wait for. After 30 minutes
    the process group gives up, and the run starts again from its newest checkpoint.
    """
    heard, finished = Event(), Event()
    path = run.folder / CHECKPOINTS / f"stacks-{run.rank}.txt"

    def watch() -> None:
        while not finished.is_set():
            if not heard.wait(HANGS_AFTER) and not finished.is_set():
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("w") as file:
                    faulthandler.dump_traceback(file)
                run.publish()
                told = f"each worker's stacks are in {CHECKPOINTS}/ of {run.name}"
                run.say(f"no step has ended for {HANGS_AFTER:.0f} s: {told}")
                heard.wait()  # told once
            heard.clear()

    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield heard.set
    finally:
        finished.set()
        heard.set()
        watcher.join()
