"""Training on Ray Train: the loop of `mars_dist.training` in each worker, checkpoints reported to the controller."""

import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from socket import socket, socketpair
from threading import Event
from typing import Any

import ray
import ray.train
import torch
from ray.exceptions import RayActorError
from ray.train import (
    Checkpoint,
    CheckpointConfig,
    CheckpointConsistencyMode,
    CheckpointUploadMode,
    FailureConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
)
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from mars_dist.distributed.console import console, stop_wanted, writer
from mars_dist.distributed.runtime import connect
from mars_dist.errors import TrainingFailed
from mars_dist.progress import Say
from mars_dist.serialize import read_json, write_json
from mars_dist.stopping import told_by_sigterm
from mars_dist.training.checkpoint import Position
from mars_dist.training.plan import Plan
from mars_dist.training.run import CHECKPOINTS, KEEP, Saved, Wish, backend

FAILURE = "failure-{rank}.json"
ALIKE = 3
"""How often the same failure, with nothing saved in between, is met before it is given up."""
AGAIN = "_again_"
STEPS_BETWEEN_QUESTIONS = 10
"""Whether a machine is about to be taken away: a question that all workers ask together."""
FOREVER = -1
"""Lost workers are always started again, from the newest checkpoint; what fails ALIKE times is given up."""


def fit(plan: Plan, workers: int | None, say: Say) -> Position:
    """Train on Ray, one worker a GPU, or else a CPU process. Goes on from the newest checkpoint in the plan's folder.

    Returns where it ended: at SIGTERM that is before the end. Raises ValueError where the plan does not fit the data or
    the cluster, TrainingFailed where training failed.
    """
    connect()
    num_gpus = int(ray.cluster_resources().get("GPU", 0))
    kind = "GPU" if num_gpus else "CPU"
    workers = workers or num_gpus or min(2, int(ray.cluster_resources()["CPU"]))
    require_resources(workers, kind)
    plan.check(workers)
    trainer = TorchTrainer(
        train_worker,  # type: ignore[arg-type]
        train_loop_config=plan.to_plain(),
        torch_config=TorchConfig(backend=backend(num_gpus > 0)),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=num_gpus > 0),
        run_config=RunConfig(
            name=CHECKPOINTS,
            storage_path=str(plan.folder),
            checkpoint_config=CheckpointConfig(num_to_keep=KEEP),
            failure_config=FailureConfig(max_failures=FOREVER),
        ),
    )
    forget_failures(plan.folder)
    with told_by_sigterm() as stop, console(say, stop, partial(there_is, workers, kind)), stopped_by_ctrl_c():
        try:
            ended: Position | TrainingFailed = trainer.fit().return_value  # type: ignore[attr-defined]
        except TrainingFailedError as error:
            raise TrainingFailed(f"training in {plan.folder} failed: {first_cause(error)}") from error
    if isinstance(ended, TrainingFailed):
        raise ended
    return ended


@contextmanager
def stopped_by_ctrl_c() -> Iterator[None]:
    """KeyboardInterrupt on Ctrl-C, where Ray's own handler, which aborts the controller, would exit without a word.

    Where the loss of the controller is noticed before that handler exits, only the signal tells that it was wanted. Ray
    leaves the handler behind, so the one before is put back.
    """
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


def require_resources(workers: int, kind: str) -> None:
    """Raises ValueError where the cluster cannot hold so many workers: fit() would wait for ever."""
    there = int(ray.cluster_resources().get(kind, 0))
    if workers > there:
        raise ValueError(
            f"--workers: {workers} workers need {workers} {kind}s, there are {there}: choose at most {there}"
        )


def train_worker(plain: dict[str, Any]) -> Position | TrainingFailed:
    """What each worker runs. A failure that would come again is returned: Ray starts again after one that is raised."""
    context = ray.train.get_context()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // context.get_local_world_size()))
    plan = Plan.from_plain(plain)
    if failure := repeated_failure(plan.folder):  # every worker finds it before it waits for any other
        return TrainingFailed(failure)
    run = RayRun(plan.folder)
    try:
        return plan.train(run)
    except TrainingFailed as failed:
        return failed
    except Exception as error:
        note_failure(plan.folder, run.rank, " ".join(str(error).split()), run.num_saved)
        raise


def note_failure(folder: Path, rank: int, message: str, num_saved: int) -> None:
    """Remember what has ended a worker, for the attempts that follow. (A lost peer's message has the peer's port.)"""
    path = folder / CHECKPOINTS / FAILURE.format(rank=rank)
    before = read_json(path) if path.exists() else {}
    alike = before.get("message") == message and not num_saved
    write_json(path, {"message": message, "times": before["times"] + 1 if alike else 1})


def repeated_failure(folder: Path) -> str | None:
    """What has ended a worker so often, with nothing saved in between, that it would come again."""
    for path in (folder / CHECKPOINTS).glob(FAILURE.format(rank="*")):
        failure = read_json(path)
        if failure["times"] >= ALIKE:
            return f"training in {folder} failed {ALIKE} times alike: {failure['message']}"
    return None


def forget_failures(folder: Path) -> None:
    for path in (folder / CHECKPOINTS).glob(FAILURE.format(rank="*")):
        path.unlink()


class RayRun:
    """A run under Ray Train: see `mars_dist.training.run.Run`."""

    def __init__(self, folder: Path) -> None:
        context = ray.train.get_context()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self.device: torch.device = get_device()
        self.folder = folder
        self.write = writer()
        self.stop = stop_wanted() if self.rank == 0 else Event()
        self.num_saved = 0
        self.num_asked, self.told_of_preemption, self.suffix = 0, False, ""

    def say(self, line: str) -> None:
        if self.rank == 0:
            self.write(line)

    def wish(self) -> Wish:
        """Now and then also whether a machine is about to be taken away, which Ray tells all workers alike, once."""
        if self.stop.is_set():
            return Wish.STOP
        self.num_asked += 1
        if self.told_of_preemption or self.num_asked % STEPS_BETWEEN_QUESTIONS:
            return Wish.GO_ON
        self.told_of_preemption = ray.train.get_preemption_info() is not None
        return Wish.SAVE if self.told_of_preemption else Wish.GO_ON

    def save(self, step: int, write: Callable[[Path], None], metrics: dict[str, float]) -> None:
        """Every worker's shards go into one folder of the storage, in the background."""
        self.num_saved += 1
        folder = Path(tempfile.mkdtemp(prefix="mars-checkpoint-"))
        write(folder)
        ray.train.report(
            {"step": step} | metrics,
            checkpoint=Checkpoint.from_directory(folder),
            checkpoint_dir_name=f"step_{step:08d}{self.suffix}",
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
        )

    def checkpoints(self) -> list[Saved]:
        reported = ray.train.get_all_reported_checkpoints(CheckpointConsistencyMode.COMMITTED)
        return [Saved(Path(one.checkpoint.path).name, as_folder(one.checkpoint)) for one in reversed(reported)]

    def distrust(self, name: str) -> None:
        """Ray knows it by its name until it has newer ones: the steps that come again get names of their own."""
        _, _, again = name.partition(AGAIN)
        self.suffix = f"{AGAIN}{int(again or 0) + 1}"


@contextmanager
def as_folder(checkpoint: Checkpoint) -> Iterator[Path]:
    with checkpoint.as_directory() as folder:
        yield Path(folder)


def first_cause(error: Exception) -> str:
    """The line that tells what went wrong in a worker."""
    failures = getattr(error, "worker_failures", {})
    cause = next(iter(failures.values()), error)
    return str(cause).strip().splitlines()[-1]
