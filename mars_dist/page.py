"""From evaluations and runs' folders to the page that a person judges by, its figures as JSON, and a table as text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from mars_dist.addresses import Address
from mars_dist.dataset import DatasetInfo
from mars_dist.evaluation.evaluate import HELD_OUT, Asked, Evaluation, Task, evaluate_all, splits_of
from mars_dist.evaluation.grid import Place, places_of, sample_grid
from mars_dist.evaluation.judges import Judges
from mars_dist.evaluation.lines import Version, is_tokenizer, kinds_of, line_of, model_of, tokenizer_of
from mars_dist.evaluation.measures import measure_named, place_of
from mars_dist.evaluation.newness import newness_of, numbered
from mars_dist.fetched import on_disk
from mars_dist.memory import keep_freed_memory
from mars_dist.metrics.pitch import detect_pitch
from mars_dist.metrics.summary import Estimate
from mars_dist.model import CONFIG, TOKENIZER, Mars, model_fingerprint, num_parameters
from mars_dist.model import METRICS as BEST
from mars_dist.nsynth import FAMILIES, SOURCES
from mars_dist.phase import Phase
from mars_dist.progress import Say, tenths
from mars_dist.report import html
from mars_dist.report.parts import LINES, Curve, Grid, Ladder, Model, Report, Row, Rung, ScaleUse
from mars_dist.sampling import SamplingConfig
from mars_dist.serialize import as_json, read_json, to_plain
from mars_dist.storage import Folder
from mars_dist.tokenizer import Tokenizer
from mars_dist.training.journal import METRICS, read_metrics

PHASES: dict[Phase, str] = {
    "griffin_lim": "Griffin-Lim from a random start",
    "pghi": "phase-gradient integration",
    "pghi_griffin_lim": "phase-gradient integration, then Griffin-Lim",
}


@dataclass(frozen=True)
class EvaluationPlan:
    """What is measured, on which notes, and how."""

    folders: Sequence[Address]
    """Of autoregressors, or of tokenizers."""
    data: str
    asked: Asked
    num_shown: int
    judges: Judges
    sampling: SamplingConfig
    phase: Phase

    @cached_property
    def num_notes(self) -> Mapping[str, int]:
        """Of each split that is measured. Raises ValueError where there is no such split, or it is not held out."""
        return splits_of(self.data, self.asked)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What the figures follow from: it is kept with them, and they are known again by it."""
        info = DatasetInfo.load(Folder.open(self.data))
        return {
            "data": info.source[:12],
            "models": [model_fingerprint(folder)[:12] for folder in self.folders],
            "notes": {split: self.num_notes.get(split, 0) for split in HELD_OUT},
            "shown": self.num_shown,
            "sampling": to_plain(self.sampling),
            "phase": self.phase,
            "rests_on": self.judges.describe(info),
        }


def evaluate_folders(plan: EvaluationPlan, out: Folder, file: str, say: Say) -> str:
    """Write the page, and its figures beside it; return the table as text.

    Raises ValueError where models, data and judges do not fit.
    """
    keep_freed_memory()
    from mars_dist.distributed.cluster import over_gpus

    runs = named(plan.folders)
    tasks = [
        Task(runs, plan.data, split, plan.sampling, plan.phase, plan.judges, new)
        for split, new in newness_of(plan.data, plan.num_notes).items()
    ]
    for task in tasks:
        task.check()
    settings, phase = plan.settings, PHASES[plan.phase]
    evaluations = evaluate_all(
        tasks, plan.num_notes, plan.num_shown, lambda split: lambda what: tenths(f"evaluate {split}: {what}"), over_gpus
    )
    for evaluation in evaluations:
        for reason in evaluation.left_out:
            say(f"{evaluation.split}: {reason}")
    info = tasks[0].info
    figures = {
        "notice": info.notice,
        "runs": {name: str(folder) for name, folder in runs.items()},
        **settings,
        "splits": {evaluation.split: to_figures(evaluation) for evaluation in evaluations},
    }
    out.write(figures_of(file), as_json(figures))
    models = {name: folder for name, folder in runs.items() if not is_tokenizer(folder)}
    grids = {name: sample_grid(tasks[0], folder, over_gpus) for name, folder in models.items()}
    report = Report(
        title="MARS: notes from a next-scale transformer" if models else "MARS: notes through a tokenizer",
        description=[
            f"{' and '.join(map(last_part, runs.values()))}, heard and measured on held-out notes.",
            f"Every line but the original and the real notes is sound made of pictures, its phase by {phase}.",
            *(
                f"{one.split}: {number_of_new(one, task.new)} that are not in the data set's split train."
                for one, task in zip(evaluations, tasks, strict=True)
            ),
        ],
        sample_rate=info.spectrogram.sample_rate,
        notice=info.notice,
        ladders=[ladder for one in evaluations for ladder in ladders(one, info.spectrogram.sample_rate)],
        grids=[grid(name, folder, grids[name], info.spectrogram.sample_rate) for name, folder in models.items()],
        table=[row for one in evaluations for row in rows(one)],
        table_notes=[
            *settings["rests_on"],
            *(f"{one.split}: {reason}" for one in evaluations for reason in one.left_out),
        ],
        models=[model(name, folder, evaluations[0]) for name, folder in runs.items()],
        lines=LINES | (headings(runs) if len(runs) > 1 else {}),
    )
    page = html.fitting(report).encode()
    out.write(file, page)
    say(f"{out.link(file)}: {len(page) / 2**20:.1f} MiB")
    return table(evaluations, report)


def number_of_new(evaluation: Evaluation, new: str) -> str:
    """Such as 20 notes, of 8 instruments."""
    unit_n = numbered(evaluation.rows, new)
    return f"{evaluation.num_notes} notes" + (f", of {unit_n.max() + 1} {new}" if unit_n is not None else "")


def named(folders: Sequence[Address]) -> dict[str, Address]:
    """A name for each run, by its folder; none where there is one run alone."""
    if len(folders) == 1:
        return {"": folders[0]}
    short = list(map(last_part, folders))
    names = short if len(set(short)) == len(short) else [str(folder) for folder in folders]
    return dict(zip(names, folders, strict=True))


def last_part(folder: Address) -> str:
    return PurePosixPath(Folder.open(folder).path).name


def figures_of(page: str) -> str:
    """The file that a page's figures lie in."""
    return str(PurePosixPath(page).with_suffix(".json"))


def to_figures(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "measures": {
            metric: {line: to_plain(estimate) for line, estimate in lines.items()}
            for metric, lines in evaluation.measures.items()
        },
        "left_out": evaluation.left_out,
        "codebook": evaluation.codebook,
    }


def headings(runs: Mapping[str, Address]) -> dict[str, tuple[str, str]]:
    """Of the lines of several runs: what they are is said once."""
    found: dict[str, tuple[str, str]] = {}
    told = set[str]()
    for run, folder in runs.items():
        for kind in kinds_of(folder):
            what = "The same, of another model." if kind in told else LINES[kind][1]
            found[line_of(kind, run)] = (f"{LINES[kind][0]}, {run}", what)
            told.add(kind)
    return found


def ladders(evaluation: Evaluation, sample_rate: int) -> list[Ladder]:
    """For each shown note the original, its picture made sound, and what each run makes of it."""
    made = []
    for i, versions in enumerate(evaluation.shown):
        note = {name: values[i].item() for name, values in evaluation.rows.items()}
        rungs = [
            rung("original" if line == "real" else line, version, note["pitch"], sample_rate)
            for line, version in versions.items()
        ]
        labels = {
            "pitch": str(note["pitch"]),
            "velocity": str(note["velocity"]),
            "instrument": f"{note['instrument_str']} ({SOURCES[note['source']]} {FAMILIES[note['family']]})",
            "split": evaluation.split,
        }
        made.append(Ladder(note["note_str"], labels, rungs))
    return made


def rung(line: str, version: Version, pitch: int, sample_rate: int) -> Rung:
    """One note to hear and see, and which pitch it has."""
    found = int(detect_pitch(version.wave_BT, sample_rate)[0])
    heard = f"pitch {found}" if found >= 0 else "no pitch found"
    caption = heard if found == pitch else f"{heard}, not {pitch}"
    return Rung(line, version.wave_BT[0].numpy(), version.picture_B1FN[0, 0].numpy(), caption)


def grid(name: str, folder: Address, made: Mapping[Place, Version], sample_rate: int) -> Grid:
    """The run's new notes, by family and pitch."""
    families, pitches, _ = places_of(model_of(folder).histogram)

    def cell(family: str, pitch: int) -> Rung | None:
        place = (family, pitch)
        return rung(line_of("sample", name), made[place], pitch, sample_rate) if place in made else None

    return Grid(
        f"By family and MIDI pitch{f', {name}' if name else ''}",
        [str(pitch) for pitch in pitches],
        {family: [cell(family, pitch) for pitch in pitches] for family in families},
    )


def rows(evaluation: Evaluation) -> list[Row]:
    """The measures in the order of their catalogue, with a cell for each line."""
    made = []
    for name in sorted(evaluation.measures, key=place_of):
        measure, cells = measure_named(name), {line: evaluation.measures[name].get(line) for line in evaluation.lines}
        made.append(Row(measure.heading, evaluation.split, measure.unit, measure.formula, cells))
    return made


def model(name: str, address: Address, evaluation: Evaluation) -> Model:
    """What the page tells of a run."""
    folder, alone = on_disk(address), is_tokenizer(address)
    stages = {"tokenizer": folder} if alone else {"tokenizer": folder / TOKENIZER, "autoregressor": folder}
    return Model(
        name=name,
        facts=({} if alone else facts_of_samples(model_of(address))) | facts(tokenizer_of(address)[0], stages),
        curves=[curve for stage, where in stages.items() for curve in curves(where, stage.capitalize())],
        codebook=scale_use(folder, evaluation.codebook[name]),
        codebook_size=tokenizer_of(address)[0].config.codebook_size,
        settings={stage: read_json(where / CONFIG) for stage, where in reversed(stages.items())},
    )


def facts_of_samples(mars: Mars) -> dict[str, str]:
    """Which notes a model was trained on, and what it can be asked for."""
    columns, counts_N = mars.histogram.columns, mars.histogram.counts_N
    families = [FAMILIES[i] for i in sorted(set(columns["family"].tolist()))]
    return {
        "Trained on": f"{counts_N.sum():,} notes, MIDI pitches {columns['pitch'].min()} to {columns['pitch'].max()}: "
        f"{', '.join(families)}",
        "Asked for": ", ".join(name.replace("_", " ") for name in mars.vocabulary.choices),
    }


def facts(tokenizer: Tokenizer, stages: Mapping[str, Path]) -> dict[str, str]:
    """What a run is made of, and how long each stage was trained."""
    schedule = tokenizer.config.schedule
    return {"Scales": f"{' '.join(map(str, schedule.sizes))}: {schedule.num_tokens} tokens"} | {
        stage.capitalize(): f"{num_parameters(where) / 1e6:.2f} M parameters; {training(where)}"
        for stage, where in stages.items()
    }


def training(folder: Path) -> str:
    """How long it was, as far as it is noted, and what came of it."""
    train, best = read_json(folder / CONFIG)["run"]["train"], read_json(folder / BEST)
    noted = read_metrics(folder, "valid") if (folder / METRICS).exists() else []
    done = int(noted[-1]["step"]) if noted else train["steps"]
    steps = f"{done:,} steps" if done == train["steps"] else f"{done:,} of {train['steps']:,} steps"
    figure = next(name for name in ("cross_entropy", "mse") if name in best)
    return (
        f"{steps} of {train['batch_size']} notes, the best at step {best['step']:,}: "
        f"{figure.replace('_', ' ')} {best[figure]:.4g} on held-out notes"
    )


def scale_use(folder: Path, figures: Mapping[str, float]) -> list[ScaleUse]:
    names = [name.removeprefix("usage_") for name in figures if name.startswith("usage_")]
    nats = read_json(folder / BEST)
    return [
        ScaleUse(
            name, figures[f"usage_{name}"], figures[f"perplexity_{name}"], nats.get(f"scales/cross_entropy_{name}")
        )
        for name in names
    ]


def curves(folder: Path, heading: str) -> list[Curve]:
    """The training loss beside the validation figures; the autoregressor's loss on both, its cross-entropy by scale."""
    if not (folder / METRICS).exists():
        return []
    train, valid = read_metrics(folder, "train"), read_metrics(folder, "valid")
    loss = series(train, "loss")
    if not valid or "cross_entropy" not in valid[0]:
        errors = [Curve(f"{heading}: mse", "step", {"valid": series(valid, "mse")})] if valid else []
        return [Curve(f"{heading}: training loss", "step", {"train": loss}), *errors]
    prefix = "scales/cross_entropy_"
    by_scale = {name.removeprefix(prefix): series(valid, name) for name in valid[0] if name.startswith(prefix)}
    held_out = {"valid": series(valid, "loss")} if "loss" in valid[0] else {}  # runs of before 2026-11-27 have none
    return [
        Curve(f"{heading}: loss", "step", {"train": loss} | held_out),
        Curve(f"{heading}: cross entropy on held-out notes, by scale", "step", by_scale),
    ]


def series(lines: list[dict[str, float]], name: str) -> tuple[list[float], list[float]]:
    return [line["step"] for line in lines], [line[name] for line in lines]


def table(evaluations: Sequence[Evaluation], report: Report) -> str:
    """The measures as text, one split after another."""
    lines = [report.notice] if report.notice else []
    for evaluation in evaluations:
        lines += ["", f"{evaluation.split}: {evaluation.num_notes} notes; mean and 95 % interval"]
        halves = zip(*(two_lines(report.heading(line)) for line in evaluation.lines), strict=True)
        told = [("", half) for half in halves if any(half)]
        told += [(row.metric, tuple(map(with_interval, row.cells.values()))) for row in rows(evaluation)]
        widths = [2 + max(map(len, column)) for column in zip(*(texts for _, texts in told), strict=True)]
        lines += [f"{name:32}" + "".join(map(str.rjust, texts, widths)) for name, texts in told]
    return "\n".join(lines)


def with_interval(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    low, high = estimate.interval
    return f"{estimate.value:.3g} [{low:.3g}, {high:.3g}]"


def two_lines(heading: str) -> tuple[str, str]:
    """What a line is, and of which run."""
    kind, _, run = heading.partition(", ")
    return kind, run
