"""What each worker of a training on Ray runs: the loop of `mars_dist.training`; its checkpoints go to the storage."""

import math
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from threading import Event
from time import monotonic
from typing import Any

import ray
import ray.train
import torch
from ray.train import (
    Checkpoint,
    CheckpointUploadMode,
    UserCallback,
)
from ray.train.torch import get_device
from ray.train.v2._internal.execution.context import get_train_context

from mars_dist.cpus import own_cpus
from mars_dist.distributed.console import ALIKE, MOST_STARTS, Line
from mars_dist.errors import TrainingFailed
from mars_dist.scratch import own_scratch
from mars_dist.storage import Folder
from mars_dist.training import sharding
from mars_dist.training.checkpoint import Position
from mars_dist.training.journal import METRICS
from mars_dist.training.mirror import Mirror
from mars_dist.training.plan import Plan
from mars_dist.training.run import KEEP, STEP, Saved, Wish

AGAIN = "_again_"
SECONDS_BETWEEN_SAVES = 30.0
"""From then on: once it is gone, two minutes later at most, Ray starts all workers again from what was saved last."""


def train_worker(given: dict[str, Any]) -> Position | TrainingFailed:
    """What each worker runs. A failure that would come again is returned: Ray starts again after one that is raised."""
    context = ray.train.get_context()
    torch.set_num_threads(given["threads"] or max(1, cpus_here() // context.get_local_world_size()))
    plan, line = Plan.from_plain(given["plan"]), Line(given["console"])
    if failure := line.repeated_failure():  # every worker finds it before it waits for any other
        return TrainingFailed(f"training in {plan.folder} failed {ALIKE} times alike: {failure}")
    run = None
    try:
        run = RayRun(plan, line)
        ended = come_to(plan, run)
        run.publish()  # of one that failed too: the steps since its last checkpoint are those that tell why
        return ended
    except Exception as error:
        line.note_failure(context.get_world_rank(), error)
        raise
    finally:
        if run:
            run.close()


def come_to(plan: Plan, run: "RayRun") -> Position | TrainingFailed:
    """Where training ended, or why it failed."""
    try:
        run.require_hope()
        return plan.train(run)
    except TrainingFailed as failed:
        return failed


def cpus_here() -> int:
    """Those that Ray gives out on this node: a scheduler or a container may have fewer than the machine."""
    here = ray.get_runtime_context().get_node_id()
    given = next(node["Resources"].get("CPU", math.inf) for node in ray.nodes() if node["NodeID"] == here)
    return int(min(given, own_cpus()))


class RayRun:
    """A run under Ray Train: see `mars_dist.training.run.Run`."""

    def __init__(self, plan: Plan, line: Line) -> None:
        context = ray.train.get_context()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self.device: torch.device = get_device()
        self.name, self.training, self.line = str(plan.folder), plan.training, line
        self.storage = context.get_storage()
        home = Folder.open(plan.folder)
        needed = {METRICS} if self.rank == 0 else set[str]()
        self.scratch = own_scratch()
        self.mirror = None if isinstance(plan.folder, Path) else Mirror(home, needed, self.scratch / "run")
        self.folder = self.mirror.folder if self.mirror else Path(home.path)
        self.stop = line.stop_wanted() if self.rank == 0 else Event()
        self.born = monotonic()
        self.last_saved, self.again = -math.inf, 0

    def require_hope(self) -> None:
        """Raises TrainingFailed, on every worker, where workers were lost again and again before anything was saved."""
        starts = sharding.gather_objects(self.line.start(self.world_size) if self.rank == 0 else 0)[0]
        if starts > MOST_STARTS:
            raise TrainingFailed(
                f"{self.name}: workers were started {MOST_STARTS} times and lost before anything was saved: have they "
                "the memory (mars check tells what they take), and do machines last for --train.checkpoint-every steps?"
            )

    def say(self, line: str) -> None:
        if self.rank == 0:
            self.line.say(line)

    def wish(self) -> Wish:
        """To save, now and then while a machine is about to be taken away: by the clock of rank 0 alone, or the others
        would save again a moment later.

        Ray tells each worker of it; to ask by `ray.train.get_preemption_info` is to wait until all workers have asked
        one actor, which takes it the longer the more there are (docs/log.md, 2026-12-01).
        """
        if self.stop.is_set():
            return Wish.STOP
        told = self.rank == 0 and get_train_context().preemption_context.preemption_info is not None
        if told and monotonic() - self.last_saved >= SECONDS_BETWEEN_SAVES:
            self.last_saved = monotonic()
            return Wish.SAVE
        return Wish.GO_ON

    def save(self, step: int, write: Callable[[Path], None], metrics: dict[str, float]) -> None:
        """Every worker's shards go into one folder of the storage, in the background.

        What this worker has written beside it goes first: a checkpoint never knows of a model that was not kept.
        """
        folder = Path(tempfile.mkdtemp(dir=self.scratch))
        write(folder)

        def send(checkpoint: Checkpoint, name: str) -> Checkpoint:
            try:
                self.publish()
                for path in sorted(folder.iterdir()):
                    self.training.sub(name).send(path)
            except OSError as error:
                self.line.note_failure(self.rank, error)
                raise
            return Checkpoint(self.storage.build_checkpoint_path_from_name(name), self.storage.storage_filesystem)

        ray.train.report(
            {"step": step, "seconds": monotonic() - self.born} | metrics,
            checkpoint=Checkpoint.from_directory(folder),
            checkpoint_dir_name=f"{STEP}{step:08d}" + (f"{AGAIN}{self.again}" if self.again else ""),
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
            checkpoint_upload_fn=send,
        )

    def checkpoints(self) -> list[Saved]:
        """As rank 0 finds them in the storage: Ray's own list would be lost with a damaged file."""
        found = [name for name in self.training.list() if name.startswith(STEP)] if self.rank == 0 else []
        names = sharding.gather_objects(sorted(found, reverse=True))[0]
        return [Saved(name, self.fetched(name)) for name in names]

    @contextmanager
    def fetched(self, name: str) -> Iterator[Path]:
        """The checkpoint on this machine: what lies in S3 is copied once for all workers there, who come together.

        (Ray's own copy is written over by a worker that comes late, while others read it.)
        """
        if not self.mirror:
            yield Path(self.training.at(name))
            return
        context = ray.train.get_context()
        here, is_first = context.get_node_rank(), context.get_local_rank() == 0
        with tempfile.TemporaryDirectory(dir=self.scratch) as scratch:
            if is_first:
                self.training.sub(name).fetch_all(Path(scratch))
            copies = dict(filter(None, sharding.gather_objects((here, scratch) if is_first else None)))
            yield Path(copies[here])

    def distrust(self, name: str) -> None:
        """Ray may know it by its name until it has newer ones: the steps that come again get names of their own."""
        _, _, again = name.partition(AGAIN)
        self.again = max(self.again, int(again or 0) + 1)

    def publish(self) -> None:
        if self.mirror:
            self.mirror.send()

    def close(self) -> None:
        """Delete the scratch folder, after the checkpoints that are still being sent: in the one thread that sends."""
        get_train_context().checkpoint_upload_threadpool.submit(shutil.rmtree, self.scratch)


class Retention(UserCallback):
    """Keeps the newest checkpoints, once all workers have saved theirs, and tells of it; in Ray's controller."""

    def __init__(self, training: Folder, line: Line) -> None:
        self.training, self.line = training, line
        self.whole: list[str] = []

    def after_report(self, run_context: object, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None) -> None:
        if checkpoint is None:
            return
        self.line.note_saved()
        self.whole.append(PurePosixPath(checkpoint.path).name)
        if len(self.whole) < KEEP:
            return
        with suppress(OSError):  # they are tried again with the next one
            for name in self.training.list():
                if name.startswith(STEP) and name < self.whole[-KEEP]:
                    self.training.delete_folder(name)
