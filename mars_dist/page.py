"""From an evaluation and a run's folder to the page that a person judges by."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mars_dist.dataset import Rows
from mars_dist.evaluation import LINES, Evaluation, evaluate, model_of
from mars_dist.memory import keep_freed_memory
from mars_dist.metrics.pitch import detect_pitch
from mars_dist.model import CONFIG, TOKENIZER
from mars_dist.nsynth import FAMILIES, SOURCES
from mars_dist.phase import Phase
from mars_dist.progress import Say, tenths
from mars_dist.report import html
from mars_dist.report.parts import LINES as HEADINGS
from mars_dist.report.parts import Curve, Ladder, Model, Report, Row, Rung, ScaleUse
from mars_dist.sampling import SamplingConfig
from mars_dist.serialize import read_json, to_plain, write_json
from mars_dist.training.journal import METRICS, read_metrics

MEASURES = {
    "pitch_accuracy": (
        "Pitch accuracy",
        "share of notes, higher is better",
        "The pitch that autocorrelation finds (NSDF, McLeod and Wyvill 2005) is the one asked for, to the semitone.",
    ),
    "log_spectral_distance": (
        "Log-spectral distance",
        "dB, lower is better",
        "Mean over frames and bins of |20 log10| difference of a 2048/512 STFT, floor -80 dBFS, from the real note.",
    ),
    "mse": ("MSE", "lower is better", "Mean squared difference of the normalised log pictures, from the real note's."),
    "mae": ("MAE", "lower is better", "Mean absolute difference of the normalised log pictures, from the real note's."),
}
EVALUATION = "evaluation.json"
PHASES: dict[Phase, str] = {
    "griffin_lim": "Griffin-Lim from a random start",
    "pghi": "phase-gradient integration",
    "pghi_griffin_lim": "phase-gradient integration, then Griffin-Lim",
}
LADDER = ("real", "griffin_lim", "reconstruction", "sample")


def write_page(
    path: Path, folder: Path, evaluations: Sequence[Evaluation], phase: Phase, sample_rate: int, notice: str
) -> int:
    """Write report.html for an autoregressor's folder; returns its size in bytes."""
    page = Report(
        title="MARS: notes from a next-scale transformer",
        description=[
            f"The model in {folder.name}, heard and measured on notes that it was not trained on.",
            f"Every line but the original and the real notes is sound made of pictures, its phase by {PHASES[phase]}.",
            "valid: (instrument, pitch) pairs that training never had. test: instruments that training never had.",
        ],
        sample_rate=sample_rate,
        notice=notice,
        ladders=[ladder for evaluation in evaluations for ladder in ladders(evaluation, sample_rate)],
        table=[row for evaluation in evaluations for row in rows(evaluation)],
        models=[model_part(folder, evaluations[0])],
    )
    return html.write(page, path)


def model_part(folder: Path, evaluation: Evaluation) -> Model:
    """What the page tells of a run."""
    tokenizer, autoregressor = read_json(folder / TOKENIZER / CONFIG), read_json(folder / CONFIG)
    return Model(
        name=folder.name,
        facts={},
        curves=[*curves(folder / TOKENIZER, "Tokenizer"), *curves(folder, "Autoregressor")],
        codebook=scale_use(evaluation),
        codebook_size=tokenizer["run"]["tokenizer"]["codebook_size"],
        settings={"autoregressor": autoregressor, "tokenizer": tokenizer},
    )


def ladders(evaluation: Evaluation, sample_rate: int) -> list[Ladder]:
    """For each shown note the original, its picture made sound, its reconstruction, and a sample asked for alike."""
    made = []
    for i, versions in enumerate(evaluation.shown):
        note = {name: values[i].item() for name, values in evaluation.rows.items()}
        rungs = []
        for line in LADDER:
            found = int(detect_pitch(versions[line].wave_BT, sample_rate)[0])
            heard = f"pitch {found}" if found >= 0 else "no pitch found"
            rungs.append(
                Rung(
                    "original" if line == "real" else line,
                    versions[line].wave_BT[0].numpy(),
                    versions[line].picture_B1FN[0, 0].numpy(),
                    heard if found == note["pitch"] else f"{heard}, asked for {note['pitch']}",
                )
            )
        labels = {
            "pitch": str(note["pitch"]),
            "velocity": str(note["velocity"]),
            "instrument": f"{note['instrument_str']} ({SOURCES[note['source']]} {FAMILIES[note['family']]})",
            "split": evaluation.split,
        }
        made.append(Ladder(note["note_str"], labels, rungs))
    return made


def rows(evaluation: Evaluation) -> list[Row]:
    return [
        Row(heading, evaluation.split, unit, formula, evaluation.measures[metric])
        for metric, (heading, unit, formula) in MEASURES.items()
    ]


def scale_use(evaluation: Evaluation) -> list[ScaleUse]:
    names = [name.removeprefix("usage_") for name in evaluation.codebook if name.startswith("usage_")]
    figures = evaluation.codebook
    return [ScaleUse(name, figures[f"usage_{name}"], figures[f"perplexity_{name}"]) for name in names]


def curves(folder: Path, heading: str) -> list[Curve]:
    """The training loss beside the validation figure that the best weights are chosen by."""
    if not (folder / METRICS).exists():
        return []
    train, valid = read_metrics(folder, "train"), read_metrics(folder, "valid")
    names = [name for name in valid[0] if name in ("mse", "cross_entropy")] if valid else []
    made = [Curve(f"{heading}: training loss", "step", {"train": series(train, "loss")})]
    for name in names:
        both = {"valid": series(valid, name)}
        if name == "cross_entropy":
            both = {"train": series(train, "loss"), **both}
            made = []
        made.append(Curve(f"{heading}: {name.replace('_', ' ')}", "step", both))
    return made


def series(lines: list[dict[str, float]], name: str) -> tuple[list[float], list[float]]:
    return [line["step"] for line in lines], [line[name] for line in lines]


def evaluate_folder(
    folder: Path,
    data: str,
    num_notes: Mapping[str, int],
    num_shown: int,
    sampling: SamplingConfig,
    phase: Phase,
    path: Path,
    say: Say,
) -> str:
    """Evaluate an autoregressor's folder on each split of `num_notes`; write evaluation.json beside it, and the page.

    Returns the table as text. Raises ValueError where model and data do not fit.
    """
    keep_freed_memory()
    from mars_dist.distributed.cluster import over_cluster

    spectrogram = model_of(folder).spectrogram
    evaluations = [
        evaluate(folder, data, split, num, num_shown, sampling, phase, tenths(f"evaluate {split}"), over_cluster)
        for split, num in num_notes.items()
    ]
    notice = Rows(data, next(iter(num_notes))).info.notice
    measured = {
        evaluation.split: {"measures": to_plain_measures(evaluation), "codebook": evaluation.codebook}
        for evaluation in evaluations
    }
    settings = {"sampling": to_plain(sampling), "phase": phase}
    write_json(folder / EVALUATION, {"notice": notice, **settings, "splits": measured})
    size = write_page(path, folder, evaluations, phase, spectrogram.sample_rate, notice)
    say(f"{path}: {size / 2**20:.1f} MiB")
    return table(evaluations, notice)


def to_plain_measures(evaluation: Evaluation) -> dict[str, dict[str, Any]]:
    return {
        metric: {line: to_plain(estimate) for line, estimate in lines.items()}
        for metric, lines in evaluation.measures.items()
    }


def table(evaluations: Sequence[Evaluation], notice: str) -> str:
    """The measures as text, one split after another."""
    lines = [notice] if notice else []
    for evaluation in evaluations:
        lines += ["", f"{evaluation.split}: {evaluation.num_notes} notes; mean and 95 % bootstrap interval"]
        lines += [f"{'':24}" + "".join(f"{HEADINGS[line][0]:>28}" for line in LINES)]
        for metric, (heading, _, _) in MEASURES.items():
            estimates = [evaluation.measures[metric][line] for line in LINES]
            cells = [f"{e.value:.3g} [{e.interval[0]:.3g}, {e.interval[1]:.3g}]" for e in estimates]
            lines += [f"{heading:24}" + "".join(f"{cell:>28}" for cell in cells)]
    return "\n".join(lines)
