"""The preflight: numbered steps, each with its answer, and a verdict."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import cached_property

from mars_dist.check.asked import Check
from mars_dist.check.device import UTILISATION, Device, Gpu, gpu
from mars_dist.check.estimate import Estimate, estimates
from mars_dist.check.place import Place, place_of, require_read, require_shared
from mars_dist.node import Node, require_enough
from mars_dist.preset_table import GIB, digits, millions
from mars_dist.storage import Folder
from mars_dist.training.run import KEEP

NO_CLUSTER = "not looked at: no cluster was named, by --address or as a job of it (mars submit check ...)"


class NotAsked(Exception):
    """Nothing was named that could be looked at."""


def check(asked: Check, write: Callable[[str], None]) -> None:
    """Answer step by step. Raises ValueError where one of them will not work, and where the cluster does not answer."""
    asked.require_sense()
    if asked.device:
        gpu(asked.device, UTILISATION)  # one that is not known is told of at once, not by each step
    preflight = Preflight(asked, place_of(asked.address or os.environ.get("RAY_ADDRESS"), asked.device))
    wrong = []
    for number, (title, step) in enumerate(preflight.steps().items(), start=1):
        try:
            mark, lines = "ok", list(step())
        except NotAsked as answer:
            mark, lines = "- ", [str(answer)]
        except (OSError, ValueError) as error:
            mark, lines = "NO", [" ".join(str(error).split())]
            wrong.append(f"{number} {title}: {lines[0]}")
        for i, line in enumerate(lines):
            write(f"{number} {title:9} {mark}  {line}" if i == 0 else f"{'':15}{line}")
    if wrong:
        raise ValueError(f"this will not work: {'; '.join(wrong)}")
    write(f"verdict: {preflight.verdict()}")


@dataclass(frozen=True)
class Preflight:
    asked: Check
    place: Place

    def steps(self) -> dict[str, Callable[[], Iterator[str]]]:
        """In their order. Each yields lines; it raises ValueError or OSError for what will not work, or NotAsked."""
        return {
            "shapes": self.shapes,
            "memory": self.memory,
            "time": self.time,
            "storage": self.storage,
            "cluster": self.cluster,
            "network": self.network,
            "versions": self.versions,
        }

    @cached_property
    def workers(self) -> int:
        """0 is one process without Ray."""
        asked = self.asked.workers
        return max(1, self.place.workers() if asked is None else asked)

    @cached_property
    def device(self) -> Device:
        return self.place.device(self.workers, self.asked.device, self.asked.utilisation or UTILISATION)

    @cached_property
    def stages(self) -> tuple[Estimate, Estimate]:
        return estimates(self.asked.preset, self.workers, self.device, self.asked.notes)

    def shapes(self) -> Iterator[str]:
        first = self.asked.preset.tokenizer
        settings = first.tokenizer
        picture = "x".join(map(str, first.spectrogram.picture_shape))
        yield (
            f"picture {picture} after CMX, {settings.patch_grid(first.spectrogram)} patches, "
            f"{settings.schedule.latent_grid} latents; {settings.schedule.num_tokens} tokens at {len(settings.scales)} "
            f"scales: {' '.join(map(str, settings.scales))}"
        )
        yield ", ".join(f"{stage.stage} {millions(stage.num_parameters)} parameters" for stage in self.stages)

    def memory(self) -> Iterator[str]:
        usable, on_gpu = self.device.usable, isinstance(self.device, Gpu)
        for stage in self.stages:
            parts, needed = stage.memory, stage.memory.total if on_gpu else stage.host_bytes
            if needed > usable:
                raise ValueError(
                    f"the {stage.stage} needs {size(needed)} of each worker, who has {size(usable)} (activations: "
                    f"{size(parts.activations)}): choose more --workers, --{stage.stage}.train.recompute blocks, or a "
                    f"smaller --{stage.stage}.train.batch-size"
                )
            where = "of the GPU" if on_gpu else "in all, the process's own included"
            yield f"{stage.stage}: {size(needed)} {where}, of {size(usable)}"
            sizes = ", ".join(f"{part.name} {size(getattr(parts, part.name))}" for part in fields(parts))
            yield f"  {sizes}"
            if on_gpu:
                yield f"  and {size(stage.host_bytes)} of the machine's memory, for each worker"

    def time(self) -> Iterator[str]:
        yield f"{self.workers} x {self.device}"
        for stage in self.stages:
            yield (
                f"{stage.stage}: {stage.steps:,} steps of {stage.step_flops / 1e12:.3g} TFLOPs, "
                f"{duration(stage.step_seconds)} each at a utilisation of {stage.utilisation:.2g}: "
                f"{duration(stage.seconds)}; each of {self.asked.notes:,} notes is seen "
                f"{digits(stage.passes(self.asked.notes))} times"
            )

    def storage(self) -> Iterator[str]:
        asked = self.asked
        if asked.data is None and asked.out is None:
            raise NotAsked("not looked at: no folder was named, by --data or --out")
        if asked.data is not None:
            require_read(self.place, Folder.open(asked.data))
            yield f"--data {asked.data} is read"
        if asked.out is not None:
            folder = Folder.open(asked.out)
            require_shared(self.place, folder)
            checkpoints = sum(16 * stage.num_parameters * (KEEP + 1) for stage in self.stages)
            free = folder.free_bytes()
            if free is not None and free < checkpoints:
                raise ValueError(f"--out: {folder.name} has {size(free)} left, checkpoints take {size(checkpoints)}")
            left = f", {size(free)} are free" if free is not None else ""
            shared = f" and is shared by {len(self.place.nodes)} nodes" if len(self.place.nodes) > 1 else ""
            yield f"--out {folder.name} is written{shared}; checkpoints take {size(checkpoints)}{left}"

    def cluster(self) -> Iterator[str]:
        if not self.place.nodes:
            raise NotAsked(NO_CLUSTER)
        for node in self.place.nodes:
            if node.num_gpus and not node.gpu:
                told = "Ray has GPUs there that torch cannot use: is their driver 580 or later?"
                raise ValueError(f"{node.name} ({node.address}): {told}")
        kind = "GPU" if self.asked.device else self.place.kind
        require_enough(self.workers, self.place.there(kind), kind)
        where = f"{len(self.place.nodes)} nodes have" if self.place.on_ray else "this machine has"
        has = f"{self.place.there('CPU')} CPUs and {self.place.there('GPU')} GPUs"
        yield f"{self.workers} workers take a {kind} each; {where} {has}"

    def network(self) -> Iterator[str]:
        if not self.place.nodes:
            raise NotAsked(NO_CLUSTER)
        for node in self.place.nodes:
            for variable, name in node.sockets:
                if not any(name_fits(name, one) for one in node.interfaces):
                    raise ValueError(
                        f"{variable}={name}: {node.name} ({node.address}) has no such interface, but "
                        f"{', '.join(node.interfaces)}: name one of these, or unset it"
                    )
            named = ", ".join(f"{variable}={name}" for variable, name in node.sockets)
            where = node.interface or "no interface of its own"
            yield f"{node.name}: {node.address} on {where}{named and f' ({named})'}"

    def versions(self) -> Iterator[str]:
        if not self.place.nodes:
            raise NotAsked(NO_CLUSTER)
        mine = dict(Node.here().versions)
        for node in self.place.nodes:
            for name, theirs in node.versions:
                if theirs != mine[name]:
                    raise ValueError(
                        f"{name}: {node.name} ({node.address}) runs {theirs}, this machine {mine[name]}: use the same "
                        "on both sides (requirements.lock)"
                    )
        everywhere = " everywhere" if self.place.on_ray else ""
        yield ", ".join(f"{name} {number}" for name, number in mine.items()) + everywhere

    def verdict(self) -> str:
        """How long, and what it costs."""
        each = " + ".join(f"{stage.stage} {duration(stage.seconds)}" for stage in self.stages)
        cost = "--price tells what it costs"
        if self.asked.price is not None:
            cost = f"it costs {sum(stage.cost(self.asked.price) for stage in self.stages):,.0f}"
        stated = "assumed" if self.asked.utilisation is None else "stated"
        basis = f"a utilisation that was {stated}" if isinstance(self.device, Gpu) else "rates measured now"
        return f"it fits; {each} = {duration(sum(stage.seconds for stage in self.stages))} by {basis}; {cost}"


def size(num_bytes: float) -> str:
    return f"{digits(num_bytes / GIB)} GiB" if num_bytes >= GIB else f"{digits(num_bytes / 2**20)} MiB"


def duration(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{digits(seconds / 3600)} h"


def name_fits(asked: str, interface: str) -> bool:
    """NCCL and Gloo take a list of beginnings, `=` before an exact name, `^` before what they shall not take."""
    if asked.startswith("^"):
        return True
    return any(interface == one[1:] if one.startswith("=") else interface.startswith(one) for one in asked.split(","))
