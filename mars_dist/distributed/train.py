"""Training on Ray Train: workers are asked for, started again where they are lost, and heard."""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from socket import socket, socketpair
from threading import Event, current_thread, main_thread
from typing import Any

import ray
import ray.train
from ray.exceptions import RayActorError
from ray.train import (
    FailureConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    UserCallback,
)
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.constants import CHECKPOINT_MANAGER_SNAPSHOT_FILENAME
from ray.train.v2.api.callback import RayTrainCallback

from mars_dist.distributed.console import Line, console
from mars_dist.distributed.orphans import free_orphans
from mars_dist.distributed.runtime import is_our_own
from mars_dist.distributed.scaling import gather, num_gpus
from mars_dist.distributed.worker import Retention, train_worker
from mars_dist.errors import TrainingFailed
from mars_dist.node import SOCKETS
from mars_dist.progress import Say
from mars_dist.stopping import told_by_sigterm
from mars_dist.storage import Folder
from mars_dist.training.checkpoint import Position
from mars_dist.training.plan import Plan
from mars_dist.training.run import CHECKPOINTS, backend

FOREVER = -1
"""For Ray lost workers are always started again, from the newest checkpoint; the workers themselves give up what fails
ALIKE times, or is lost MOST_STARTS times with nothing saved."""


def fit(plan: Plan, workers: tuple[int, int], say: Say) -> Position:
    """Train on Ray, one worker a GPU, or else a CPU process. Goes on from the newest checkpoint in the plan's folder.

    With fewer at the least than at the most it is elastic: what machines there are take part.

    Returns where it ended: at SIGTERM that is before the end. Raises TrainingFailed where machines do not come, or
    training failed.
    """
    gather(workers[0], say)
    with told_by_sigterm() as stop:
        return train(plan, workers, num_gpus() > 0, say, stop)


def train(
    plan: Plan,
    workers: tuple[int, int],
    on_gpu: bool,
    say: Say,
    stop: Event,
    callbacks: Sequence[UserCallback] = (),
    threads: int | None = None,
) -> Position:
    """Train with so many workers, from the least to the most, until `stop` is set.

    `threads` are each worker's; by default its share of its machine. Raises ValueError where another run writes to the
    folder, or comes to, TrainingFailed.
    """
    waits_for = partial(there_is, workers[1], "GPU" if on_gpu else "CPU")
    with plan.held(say, stop), console(say, stop, waits_for) as name:
        forget_checkpoints(plan.training)
        if is_our_own():
            free_orphans()
        trainer = trainer_of(plan, workers, on_gpu, {"console": name, "threads": threads}, callbacks)
        try:
            with stopped_by_ctrl_c():
                ended: Position | TrainingFailed = trainer.fit().return_value  # type: ignore[attr-defined]
        except TrainingFailedError as error:
            raise TrainingFailed(f"training in {plan.folder} failed: {first_cause(error)}") from error
    if isinstance(ended, TrainingFailed):
        raise ended
    return ended


def trainer_of(
    plan: Plan, workers: tuple[int, int], on_gpu: bool, given: dict[str, Any], callbacks: Sequence[UserCallback]
) -> "Trainer":
    """With so many workers, from the least to the most; `given` is for each of them."""
    home, (fewest, most) = Folder.open(plan.folder), workers
    return Trainer(
        train_worker,  # type: ignore[arg-type]
        train_loop_config={"plan": plan.to_plain()} | given,
        torch_config=TorchConfig(backend=backend(on_gpu)),
        scaling_config=ScalingConfig(num_workers=most if fewest == most else workers, use_gpu=on_gpu),  # type: ignore[arg-type]
        run_config=RunConfig(
            name=CHECKPOINTS,
            storage_path=home.path,
            storage_filesystem=None if isinstance(plan.folder, Path) else home.files,
            failure_config=FailureConfig(max_failures=FOREVER),
            worker_runtime_env={"env_vars": {name: os.environ[name] for name in SOCKETS if name in os.environ}},  # type: ignore[call-arg]
            callbacks=[Retention(plan.training, Line(given["console"])), *callbacks],  # type: ignore[list-item]
        ),
    )


class Trainer(TorchTrainer):
    """Without the actors that a training on a runtime of its own has no use for: each is one more process to start.

    What cleans up after a lost controller asks the dashboard, and where there is none holds up the end by 12 seconds.
    """

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        needless = (PlacementGroupCleanerCallback, DatasetsCallback) if is_our_own() else ()
        made = super()._create_default_callbacks()  # type: ignore[misc]
        return [callback for callback in made if not isinstance(callback, needless)]


def forget_checkpoints(training: Folder) -> None:
    """Ray's own list of them: a run looks what there is, so that no damaged list, or another Ray's, hinders it."""
    if CHECKPOINT_MANAGER_SNAPSHOT_FILENAME in training.list():
        training.delete(CHECKPOINT_MANAGER_SNAPSHOT_FILENAME)


@contextmanager
def stopped_by_ctrl_c() -> Iterator[None]:
    """KeyboardInterrupt on Ctrl-C, where Ray's own handler, which aborts the controller, would exit without a word.

    Where the loss of the controller is noticed before that handler exits, only the signal tells that it was wanted. Ray
    leaves the handler behind, so the one before is put back. Signals are the main thread's: elsewhere nothing is done.
    """
    if current_thread() is not main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    signals, writer_end = socketpair()
    writer_end.setblocking(False)
    signals.setblocking(False)
    wakeup_before = signal.set_wakeup_fd(writer_end.fileno(), warn_on_full_buffer=False)
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    except RayActorError as error:
        if pressed(signals):
            raise KeyboardInterrupt from None
        raise TrainingFailed("Ray's controller of the training was lost: the same command goes on") from error
    finally:
        signal.set_wakeup_fd(wakeup_before)
        signal.signal(signal.SIGINT, before)
        signals.close()
        writer_end.close()


def pressed(signals: socket) -> bool:
    """Whether Ctrl-C is among the signals that arrived."""
    try:
        return signal.SIGINT in signals.recv(1024)
    except BlockingIOError:
        return False


def there_is(workers: int, kind: str) -> str:
    """What is asked for, and what the cluster has."""
    there, free = (int(resources.get(kind, 0)) for resources in (ray.cluster_resources(), ray.available_resources()))
    nodes = sum(node["Alive"] for node in ray.nodes())
    return f"{workers} workers want a {kind} each; {nodes} nodes have {there} {kind}s, {free} of them free"


def first_cause(error: Exception) -> str:
    """The line that tells what went wrong in a worker."""
    failures = getattr(error, "worker_failures", {})
    cause = next(iter(failures.values()), error)
    told = str(cause).strip() or type(cause).__name__
    return told.splitlines()[-1]
