"""The preflight without a cluster: what is predicted, and one line for what will not work."""

import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mars_dist.check.device import GPUS, Cpu, gpu, this_cpu
from mars_dist.check.estimate import PROCESS, estimates
from mars_dist.check.nsynth import as_markdown
from mars_dist.check.place import Place, Result, require_shared
from mars_dist.check.steps import Check, Preflight, check
from mars_dist.costs import cost_of
from mars_dist.cpus import own_cpus
from mars_dist.dryrun import Work
from mars_dist.node import Node
from mars_dist.presets import PRESETS, Preset
from mars_dist.s3 import S3Folder
from mars_dist.storage import Folder

GIB = 2**30


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never the cluster that happens to run on this machine."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def answers(preset: str | Preset = "debug", **asked: object) -> tuple[list[str], str]:
    """The lines that are printed, and what was refused in the end."""
    lines: list[str] = []
    refused = ""
    try:
        check(Check(PRESETS[preset] if isinstance(preset, str) else preset, **asked), lines.append)  # type: ignore[arg-type]
    except ValueError as error:
        refused = str(error)
    return lines, refused


def step(lines: list[str], number: int) -> str:
    [line] = [line for line in lines if line.startswith(f"{number} ")]
    return line


# ---- devices


def test_a_gpu_by_name() -> None:
    assert gpu("h100", 0.4).peak == 989e12 and gpu("h100", 0.4).utilisation == 0.4
    with pytest.raises(ValueError, match=f"--device: h1000 is not known: choose {', '.join(GPUS)}"):
        gpu("h1000", 0.3)


def test_a_gpu_takes_flops_over_peak_and_waits_for_its_kernels() -> None:
    device, flops = gpu("a100", 0.5), {torch.bfloat16: 156 * 10**12}
    assert device.seconds(Work(flops, 0, 10), 0, 0) == pytest.approx(1)
    assert device.seconds(Work(flops, 0, 10), 10**15, 10**15) == pytest.approx(1)
    assert device.seconds(Work({}, 0, 1000), 0, 0) == pytest.approx(0.01)


def test_a_cpu_takes_products_memory_calls_and_messages() -> None:
    device = Cpu(1, {torch.bfloat16: 4e11, torch.float32: 1e11}, 4e10, 3e-6, 8 * GIB)
    nothing = Work({}, 0, 0)
    assert device.seconds(nothing, 0, 0) == 0
    both = {torch.bfloat16: 4 * 10**11, torch.float32: 10**11}
    assert device.seconds(Work(both, 0, 0), 0, 0) == 2 * device.seconds(Work({torch.float32: 10**11}, 0, 0), 0, 0)
    assert device.seconds(Work({}, 10**9, 0), 0, 0) == device.seconds(nothing, 10**9, 0) > 0
    assert device.seconds(Work({}, 0, 1000), 0, 0) > 1000 * device.operation
    assert device.seconds(nothing, 0, 10**9) == pytest.approx(1)


def test_this_cpu_is_measured_and_shared() -> None:
    threads, cores = torch.get_num_threads(), own_cpus()
    one = this_cpu(cores)
    assert torch.get_num_threads() == threads and one.threads == 1
    assert 1e9 < one.flops[torch.float32] < 1e14 and 1e8 < one.num_bytes < 1e13 and 1e-8 < one.operation < 1e-3
    assert one.memory < Cpu(1, {}, 1, 1, 10**15).memory


def test_of_the_machine_only_the_cpus_that_a_process_may_use_count() -> None:
    """As SLURM leaves it: with a thread for each of the others it would have many on one."""
    code = "import os; from mars_dist.cpus import own_cpus; os.sched_setaffinity(0, {CPU}); print(own_cpus())"
    one = min(os.sched_getaffinity(0))
    ended = subprocess.run([sys.executable, "-c", code.replace("CPU", str(one))], capture_output=True, text=True)
    assert ended.stdout == "1\n", ended.stderr


# ---- estimates


def test_estimates_on_gpus() -> None:
    """FLOPs are those of the table of presets; more workers take less time and less memory, each less."""
    small, device = PRESETS["small"], gpu("a100", 0.5)
    head, settings = small.autoregressor.autoregressor, small.tokenizer.tokenizer
    cost, eight, two = cost_of(small), estimates(small, 8, device, 10**6), estimates(small, 2, device, 10**6)
    for name, few, many in zip(("tokenizer", "autoregressor"), two, eight, strict=True):
        assert (few.stage, few.num_parameters) == (name, getattr(cost, name).num_parameters)
        again = 2 * head.width * settings.codebook_size * settings.schedule.num_tokens * (name == "autoregressor")
        assert few.step_flops == pytest.approx(
            few.batch_size * (getattr(cost, name).training_flops + again), rel=0.02
        ), "the logits are computed again for the backward pass"
        assert few.step_seconds == pytest.approx(few.step_flops / 2 / 156e12) and few.utilisation == 0.5
        assert few.hours == few.steps * few.step_seconds / 3600
        assert few.cost(3) == pytest.approx(6 * few.hours)
        assert many.step_seconds < few.step_seconds and many.memory.total < few.memory.total
        assert many.utilisation <= 0.5
    assert two[0].passes(10**6) == 50_000 * 128 / 10**6


def test_float32_takes_a_gpu_a_multiple_of_the_time() -> None:
    """Nothing is rounded to TF32."""
    base = PRESETS["base"]
    plain = replace(
        base,
        tokenizer=replace(base.tokenizer, train=replace(base.tokenizer.train, precision="float32")),
        autoregressor=replace(base.autoregressor, train=replace(base.autoregressor.train, precision="float32")),
    )
    for in_bf16, in_float32 in zip(*(estimates(one, 8, gpu("h100", 0.3), 10**6) for one in (base, plain)), strict=True):
        assert in_float32.step_seconds == pytest.approx(in_bf16.step_seconds * 989 / 67, rel=0.01)


def test_a_process_holds_what_it_reads() -> None:
    """A window of the data and what is read ahead of it, and what validation reads at once, each as large as the data
    set at most; a CPU's worker the model too."""
    preset = PRESETS["debug"]
    cpu = Cpu(1, {torch.bfloat16: 4e11, torch.float32: 1e11}, 4e10, 3e-6, 8 * GIB)
    few, many = (estimates(preset, 1, gpu("l4", 0.3), notes)[0].host_bytes for notes in (100, 10**6))
    row, read_at_once = 2 * 256 * 512, S3Folder.at_once * 64
    assert PROCESS + 200 * row < few < PROCESS + 300 * row
    window = 1024 + preset.tokenizer.train.batch_size + 2 * read_at_once
    assert many - few == pytest.approx((window + read_at_once - 2 * 100) * row, rel=0.01)
    on_cpu = estimates(preset, 1, cpu, 100)[0]
    assert few + on_cpu.memory.weights < on_cpu.host_bytes < few + 2 * on_cpu.memory.total


# ---- the steps


def test_all_that_can_be_looked_at_here(tmp_path: Path, short_pictures: str) -> None:
    lines, refused = answers(workers=1, data=short_pictures, out=str(tmp_path / "out"))
    assert not refused and [line.split()[0] for line in lines if line[0].isdigit()] == list("1234567")
    assert all(f" {title}" in step(lines, i) and "  ok " in step(lines, i) for i, title in enumerate(
        ("shapes", "memory", "time", "storage", "cluster", "network", "versions"), start=1
    ))  # fmt: skip
    assert "picture 64x32x64 after CMX, 4x4 patches, 4x4 latents; 21 tokens at 3 scales: 1x1 2x2 4x4" in lines[0]
    assert f"torch {torch.__version__}" in step(lines, 7)
    assert lines[-1].startswith("verdict: it fits; tokenizer ") and lines[-1].endswith("--price tells what it costs")
    assert not list((tmp_path / "out").iterdir())


def test_gpus_that_are_only_named() -> None:
    lines, refused = answers("base", workers=8, device="h100", utilisation=0.4, price=2.5)
    assert not refused
    assert "8 x H100 SXM, 989 TFLOP/s" in step(lines, 3)
    assert all("  -   not looked at: no " in step(lines, i) for i in (4, 5, 6, 7))
    hours = sum(stage.hours for stage in estimates(PRESETS["base"], 8, gpu("h100", 0.4), 289_205))
    assert lines[-1].endswith(f"by a utilisation that was stated; it costs {8 * hours * 2.5:,.0f}")


def test_what_does_not_fit_a_gpu() -> None:
    lines, refused = answers("base", workers=1, device="a100-40g")
    assert step(lines, 2).startswith("2 memory    NO  the autoregressor needs ")
    assert refused.startswith("this will not work: 2 memory: the autoregressor needs ")
    assert (
        "choose more --workers, --autoregressor.train.recompute blocks, or a smaller --autoregressor.train.batch-size"
        in refused
    )
    assert not any(line.startswith("verdict") for line in lines)


def test_more_workers_than_there_are() -> None:
    cores = own_cpus()
    preset = replace_batch(PRESETS["debug"], 4 * cores)
    _, refused = answers(preset, workers=4 * cores)
    assert refused == (
        f"this will not work: 5 cluster: --workers: {4 * cores} workers need {4 * cores} CPUs, there are {cores}: "
        f"choose at most {cores}"
    )


def test_more_workers_than_rows() -> None:
    assert "train.batch_size: 4 rows are too few for 5 workers" in answers(workers=5, device="h100")[1]


def test_folders_that_will_not_do(tmp_path: Path, bucket: str) -> None:
    (tmp_path / "file").touch()
    wrong: dict[Callable[[], dict[str, str]], str] = {
        lambda: {"data": str(tmp_path / "nowhere")}: "4 storage: --data: ",
        lambda: {"out": str(tmp_path / "file" / "out")}: "cannot be written",
        lambda: {"out": bucket.replace("bucket/", "another/")}: "another",
        lambda: {"out": "gs://bucket/x"}: "gs://bucket/x: no folder's address",
    }
    for asked, words in wrong.items():
        refused = answers(device="l4", workers=1, **asked())[1]
        assert refused.startswith("this will not work: 4 storage: ") and words in refused
    assert not answers(device="l4", workers=1, out=bucket)[1]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"workers": -1}, "--workers: -1 must be 0"),
        ({"notes": 0}, "--notes: 0 must be at least 1"),
        ({"utilisation": 1.5}, "--utilisation: 1.5 must lie above 0"),
        ({"price": -1.0}, "--price: -1.0 must be 0 or more"),
        ({"price": math.nan}, "--price: nan must be 0 or more"),
    ],
)
def test_settings_out_of_bounds(asked: dict[str, float], words: str) -> None:
    assert words in answers(**asked)[1]


def test_a_gpu_that_is_not_known_is_told_of_once() -> None:
    lines, refused = answers(device="H100")
    assert not lines and refused.startswith("--device: H100 is not known: choose ")


def test_a_runtime_of_ones_own_is_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """As other commands take Ray's own word for it."""
    monkeypatch.setenv("RAY_ADDRESS", "local")
    lines, refused = answers(workers=1)
    assert not refused and "this machine has" in step(lines, 5)


def test_nodes_that_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions of another node, and an interface that it does not have."""
    from mars_dist.check import steps

    here = Node.here()
    other = replace(here, name="there", versions=tuple((name, "1.0") for name, _ in here.versions))
    lost = replace(here, sockets=(("GLOO_SOCKET_IFNAME", "eth7"),))
    for node, words in (
        (other, "7 versions: Python: there (127.0.0.1) runs 1.0, this machine "),
        (lost, "6 network: GLOO_SOCKET_IFNAME=eth7: "),
    ):
        monkeypatch.setattr(steps, "place_of", lambda *asked, node=node: Place([here, node], on_ray=False))
        assert answers(workers=1)[1].startswith(f"this will not work: {words}")
    fits = replace(here, sockets=(("NCCL_SOCKET_IFNAME", "=lo"), ("GLOO_SOCKET_IFNAME", "eth,lo")))
    monkeypatch.setattr(steps, "place_of", lambda *asked: Place([fits], on_ray=False))
    assert "NCCL_SOCKET_IFNAME==lo" in step(answers(workers=1)[0], 6)


def test_a_folder_that_nodes_do_not_share(tmp_path: Path) -> None:
    """In the second place each node has a disk of its own: what another wrote is moved away before it looks."""
    here, shared = Node.here(), tmp_path / "shared"
    nodes, aside = [replace(here, name=name) for name in ("one", "two")], tmp_path / "aside"

    class Apart(Place):
        def call(self, node: Node, work: Callable[[], Result]) -> Result:
            if node.name == "two":
                shared.rename(aside)
            try:
                return work()
            finally:
                if node.name == "two":
                    aside.rename(shared)

    require_shared(Place(nodes, on_ray=False), Folder.open(shared))
    with pytest.raises(
        ValueError, match=r"is not shared: what one \(127.0.0.1\) writes, two \(127.0.0.1\) does not see"
    ):
        require_shared(Apart(nodes, on_ray=False), Folder.open(shared))
    assert not list(shared.iterdir())


def test_the_gpu_of_a_node_is_known_by_its_name() -> None:
    here = Node.here()
    peaks = {
        "NVIDIA A100-SXM4-40GB": 312e12,
        "NVIDIA L40S": 362e12,
        "NVIDIA L4": 121e12,
        "NVIDIA H100 80GB HBM3": 989e12,
        "NVIDIA H100 PCIe": 756e12,
        "NVIDIA H100 NVL": 835e12,
    }
    for name, peak in peaks.items():
        place = Place([replace(here, num_gpus=2, gpu=name, gpu_memory=10 * GIB)], on_ray=False)
        device = place.device(2, None, 0.3)
        assert (device.peak, device.memory, place.workers()) == (peak, 10 * GIB, 2)
    with pytest.raises(ValueError, match="--device: the peak of a Abacus is not known here"):
        Place([replace(here, num_gpus=1, gpu="Abacus")], on_ray=False).device(1, None, 0.3)
    with pytest.raises(ValueError, match="--device: the peak of a NVIDIA L40 is not known here"):
        Place([replace(here, num_gpus=1, gpu="NVIDIA L40")], on_ray=False).device(1, None, 0.3)


def test_gpus_that_torch_cannot_use_are_told() -> None:
    """Ray counts them by NVML, whatever driver they have."""
    old = replace(Node.here(), name="old", num_gpus=4, gpu="")
    asked = Check(PRESETS["debug"], workers=4, device="h100")
    with pytest.raises(ValueError, match=r"old \(127.0.0.1\): Ray has GPUs there that torch cannot use"):
        list(Preflight(asked, Place([old], on_ray=True)).cluster())


def test_a_cluster_that_grows_has_the_gpus_that_it_can_start() -> None:
    place = Place([replace(Node.here(), num_gpus=0, gpu="")], on_ray=True, grows_to=8)
    assert (place.kind, place.there("GPU"), place.workers()) == ("GPU", 8, 8)
    assert place.device(8, "l4", 0.3).peak == 121e12
    with pytest.raises(ValueError, match="--device: no node with a GPU has started yet: name what they will have"):
        place.device(8, None, 0.3)


def replace_batch(preset: Preset, batch_size: int) -> Preset:
    first, second = (
        replace(stage, train=replace(stage.train, batch_size=batch_size))
        for stage in (preset.tokenizer, preset.autoregressor)
    )
    return Preset(first, second)


def test_the_page_of_nsynth_is_what_the_code_makes() -> None:
    """Where this fails: python -m mars_dist.check.nsynth > docs/nsynth.md, and read the diff."""
    page = Path(__file__).parents[1] / "docs" / "nsynth.md"
    assert page.read_text() == as_markdown(PRESETS) + "\n"
