"""The table of presets and what they cost, for the terminal and for docs/presets.md."""

from collections.abc import Mapping

from mars_dist.costs import DryStep, autoregressor_step, cost_of, memory_of, tokenizer_step
from mars_dist.presets import Preset

WORKERS = (1, 8)
GIB = 2**30

INTRO = """# The presets

What each preset is, and what it costs, counted by dry runs of the real modules (`mars_dist/costs.py`).

* FLOPs are those of matrix products and convolutions, two for a multiplication and its addition, for one note.
  Training takes three times the forward pass; the autoregressor's is that of teacher forcing. Sampling goes from
  conditions to picture, with cached keys and values, guidance (which doubles the batch) and the decoder.
* Memory is what each GPU needs at most for a training step at the preset's batch, which the workers share: weights,
  gradients, the optimizer's moments and the moving average in shards, the blocks that are gathered, and the most that
  forward and backward pass hold at one time. CUDA's context and what its allocator wastes come on top. A dash: there
  are fewer rows than workers.

"""
OUTRO = """
A preset of your own is a `.toml`, which every command takes where a preset is:

    preset = "tiny"                      # what all that is not said is taken from
    [tokenizer.tokenizer]
    scales = ["1x1", "2x1", "4x1", "16x4"]
    [tokenizer.train]
    steps = 3000
    [autoregressor.optim]
    lr = 2e-3

Remade by `mars presets --markdown > docs/presets.md`; a test compares. `mars presets mine.toml` shows one of your own.
"""


def as_text(presets: Mapping[str, Preset]) -> str:
    """The table in aligned columns, the scales below it."""
    rows = table(presets)
    first = max(len(row[0]) for row in rows)
    others = max(len(cell) for row in rows for cell in row[1:]) + 2
    lines = [row[0].ljust(first) + "".join(cell.rjust(others) for cell in row[1:]) for row in rows]
    scales = [f"{name:{first}}  {sizes}" for name, sizes in scales_of(presets).items()]
    return "\n".join([*lines, "", "scales", *scales])


def as_markdown(presets: Mapping[str, Preset]) -> str:
    """The whole page."""
    head, *rows = [f"| {' | '.join(row)} |" for row in table(presets)]
    rule = "|---" + "|--:" * len(presets) + "|"
    scales = [f"* {name}: {sizes}" for name, sizes in scales_of(presets).items()]
    return INTRO + "\n".join([head, rule, *rows, "", "Scales, frequency x time:", "", *scales, OUTRO.rstrip()])


def table(presets: Mapping[str, Preset]) -> list[list[str]]:
    """Rows of cells; a column for each preset, after one of names."""
    columns = [column(name, preset) for name, preset in presets.items()]
    return [[label, *(cells[label] for cells in columns)] for label in columns[0]]


def column(name: str, preset: Preset) -> dict[str, str]:
    """What stands in each row."""
    first, second, cost = preset.tokenizer, preset.autoregressor, cost_of(preset)
    settings, schedule = first.tokenizer, first.tokenizer.schedule
    return {
        "preset": name,
        "picture after CMX, C x H x W": "x".join(map(str, first.spectrogram.picture_shape)),
        "patch grid": str(settings.patch_grid(first.spectrogram)),
        "latent grid": str(schedule.latent_grid),
        "scales K": str(len(schedule)),
        "tokens L": str(schedule.num_tokens),
        "codebook V x C": f"{settings.codebook_size}x{settings.code_width}",
        "tokenizer depth x width": f"{settings.depth}x{settings.width}",
        "tokenizer parameters": millions(cost.tokenizer.num_parameters),
        "tokenizer forward FLOPs": billions(cost.tokenizer.forward_flops),
        "tokenizer batch": str(first.train.batch_size),
        **memory("tokenizer", tokenizer_step(first)),
        "autoregressor depth x width": f"{second.autoregressor.depth}x{second.autoregressor.width}",
        "autoregressor parameters": millions(cost.autoregressor.num_parameters),
        "autoregressor forward FLOPs": billions(cost.autoregressor.forward_flops),
        "autoregressor batch": str(second.train.batch_size),
        **memory("autoregressor", autoregressor_step(second, settings)),
        "sampling FLOPs": billions(cost.sampling_flops),
    }


def memory(stage: str, step: DryStep) -> dict[str, str]:
    """A row for each number of workers; a dash where the batch has too few rows."""
    fewest = step.train.accumulate
    return {
        f"{stage} memory, {workers} worker{'s' * (workers > 1)}": (
            "-" if step.train.batch_size < workers * fewest else f"{digits(memory_of(step, workers).total / GIB)} GiB"
        )
        for workers in WORKERS
    }


def scales_of(presets: Mapping[str, Preset]) -> dict[str, str]:
    return {name: " ".join(map(str, preset.tokenizer.tokenizer.scales)) for name, preset in presets.items()}


def millions(count: int) -> str:
    return f"{digits(count / 1e6)} M"


def billions(count: int) -> str:
    return f"{digits(count / 1e9)} G"


def digits(value: float) -> str:
    """Three digits, and those that a larger number has before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
