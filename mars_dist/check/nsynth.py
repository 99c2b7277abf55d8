"""docs/nsynth.md: what a full NSynth run of each preset takes, computed by `mars check`; nothing on it is measured."""

from collections.abc import Mapping
from dataclasses import dataclass

from mars_dist.check.asked import NSYNTH_TRAIN
from mars_dist.check.device import UTILISATION, gpu
from mars_dist.check.estimate import Estimate, estimates
from mars_dist.check.steps import duration, size
from mars_dist.preset_table import digits
from mars_dist.presets import PRESETS, Preset


@dataclass(frozen=True)
class Machine:
    """Workers that someone rents."""

    device: str
    workers: int
    price: float
    """Of a GPU, an hour: a round figure to reckon with, no offer."""


MACHINES = (Machine("l4", 1, 0.8), Machine("a100", 8, 2.5), Machine("h100", 8, 4.0))

INTRO = f"""# NSynth, from nothing to a trained model

**Computed by `mars check`, not measured**: no GPU was at hand. {NSYNTH_TRAIN:,} notes in the training split. Every
figure rests on assumptions: a utilisation of {UTILISATION} of the GPU's bf16 peak (`--utilisation`), 10 µs for Python
to start a kernel, which is what small presets wait for, and the prices below (`--price`), round figures to reckon with.
Validation, checkpoints and start come on top, and so does the reading of data where that is slower than a step. Look at
the first lines of a run (ms/step), then check again with the utilisation that is reached.

"""
COMMANDS = """
## The commands

NSynth's three archives (json/wav) are at https://magenta.withgoogle.com/datasets/nsynth: put them into nsynth/
as they are.

    mars check base --workers 8 --device h100 --price 4
    mars preprocess base --source nsynth/ --out s3://bucket/pictures
    mars check base --workers 8 --data s3://bucket/pictures --out /shared/run    # on the cluster: docs/training.md
    mars train-tokenizer base --data s3://bucket/pictures --out /shared/run/tokenizer --workers 8
    mars encode --tokenizer /shared/run/tokenizer --data s3://bucket/pictures --out s3://bucket/codes
    mars train-ar base --tokenizer /shared/run/tokenizer --data s3://bucket/codes --out /shared/run/ar --workers 8

Turn the machines off when they are done: a price is an hour's, whether they compute or not.

Remade by `python -m mars_dist.check.nsynth > docs/nsynth.md`; a test compares.
"""


def as_markdown(presets: Mapping[str, Preset]) -> str:
    """The whole page."""
    sections = [section(machine, presets) for machine in MACHINES]
    return INTRO + "\n".join(sections) + COMMANDS.rstrip()


def section(machine: Machine, presets: Mapping[str, Preset]) -> str:
    """The table of a machine: a row for each stage of each preset whose batch has a row for each worker."""
    device = gpu(machine.device, UTILISATION)
    head = f"## {machine.workers} x {device}, at {machine.price:.2f} an hour for each\n"
    lines = [
        head,
        "| preset | stage | steps | times each note is seen | GPU memory | step | utilisation | hours | cost |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, preset in presets.items():
        if preset.tokenizer.train.batch_size >= machine.workers:
            stages = estimates(preset, machine.workers, device, NSYNTH_TRAIN)
            lines += [row(name, stage, stage.memory.total <= device.usable, machine.price) for stage in stages]
    return "\n".join(lines) + "\n"


def row(name: str, stage: Estimate, fits: bool, price: float) -> str:
    taken = ["does not fit", "", "", ""]
    if fits:
        hours, cost = f"{stage.hours:.2f}", f"{stage.cost(price):,.0f}"
        taken = [duration(stage.step_seconds), f"{stage.utilisation:.2f}", hours, cost]
    seen, memory = digits(stage.passes(NSYNTH_TRAIN)), size(stage.memory.total)
    return f"| {' | '.join([name, stage.stage, f'{stage.steps:,}', seen, memory, *taken])} |"


if __name__ == "__main__":
    print(as_markdown(PRESETS))
