"""The work of an evaluation: cut into parts, spread, put together again. The figures do not depend on how it is spread.

Suffixes: B notes, F N bins and frames, L codes over all scales, K scales, W the codes of all codebooks side by
side, D cells or features.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mars_dist.addresses import Address
from mars_dist.dataset import Columns, DatasetInfo, require_pictures
from mars_dist.devices import own_device
from mars_dist.evaluation.judges import Features, Judges
from mars_dist.evaluation.lines import (
    COLUMNS,
    Version,
    is_tokenizer,
    line_of,
    lines_of,
    model_of,
    pictures_of,
    real_version,
    resynthesis,
    sounding,
    tokenizer_of,
    versions_of_run,
)
from mars_dist.evaluation.measures import Measured, measure
from mars_dist.evaluation.nearest import likeness_of, search
from mars_dist.evaluation.newness import NOTES, numbered
from mars_dist.evaluation.sets import set_measures
from mars_dist.evaluation.work import NOTES_AT_ONCE, Map, Progress
from mars_dist.metrics.codebook import count_codes, usage
from mars_dist.metrics.summary import Estimate, bootstrap, share
from mars_dist.phase import Phase
from mars_dist.rows import Rows, evenly
from mars_dist.sampling import SamplingConfig
from mars_dist.storage import Folder

BITS = "bits_per_second"
HELD_OUT = ("valid", "test")
Asked = int | Mapping[str, int]
"""How many notes are measured: of each held-out split that there is, or of those that are named."""


@dataclass(frozen=True)
class Task:
    """What is evaluated, on which notes, and how."""

    runs: Mapping[str, Address]
    """Name -> the folder of an autoregressor, or of a tokenizer; one alone has the name ""."""
    data: str
    split: str
    sampling: SamplingConfig
    phase: Phase
    judges: Judges
    new: str = NOTES
    """What of the notes training does not have: all notes of one are drawn together for an interval (newness.py)."""
    references: bool = True
    """Whether what the runs' own lines are read beside is measured too: the lines that runs share, the training notes
    nearest to samples, and sets of notes."""

    @cached_property
    def info(self) -> DatasetInfo:
        """Read once: it is sent along with each piece of work."""
        return Rows(self.data, self.split).info

    @cached_property
    def wants_nearest(self) -> bool:
        """Whether the training notes nearest to samples are to be measured."""
        return self.references and not all(map(is_tokenizer, self.runs.values()))

    @cached_property
    def finds_nearest(self) -> bool:
        """Whether there are any, too."""
        return self.wants_nearest and self.info.counts.get("train", 0) > 0

    def check(self) -> None:
        """Raises ValueError where data set, runs and judges do not fit each other."""
        for tokenizer, spectrogram in [tokenizer_of(folder) for folder in self.runs.values()]:
            require_pictures(spectrogram, self.info, self.data)
            self.sampling.per_scale(tokenizer.config.schedule)
        self.judges.check(self.info)


def splits_of(data: str, asked: Asked) -> Mapping[str, int]:
    """How many notes of which splits. Raises ValueError where there is no such split, or it is not held out."""
    if isinstance(asked, int):
        found = DatasetInfo.load(Folder.open(data)).counts
        asked = {split: asked for split in HELD_OUT if split == "valid" or found.get(split)}
    for split in asked:
        Rows(data, split)
        if split not in HELD_OUT:
            raise ValueError(
                f"--splits: {split} is not held out, its sound is not kept: choose {' or '.join(HELD_OUT)}"
            )
    return asked


@dataclass(frozen=True)
class Part:
    """Some of the notes that are measured: a piece of work."""

    first: int
    """Place of the first one among all measured notes; a sample's noise is keyed by its place."""
    rows: NDArray[np.int64]
    """Which rows of the split."""
    num_shown: int


@dataclass(frozen=True)
class Outcome:
    """What became of a part."""

    part: Part
    measured: Measured
    features: Features
    columns: Columns
    likeness: dict[str, Tensor]
    """For real notes and each run's samples (B, D), float16: what their nearest training notes are found by."""
    hits: dict[str, Tensor]
    """Run -> (K, W)."""
    shown: list[dict[str, Version]]


@dataclass
class Evaluation:
    """What was measured on one split."""

    split: str
    num_notes: int
    lines: list[str]
    measures: dict[str, dict[str, Estimate]]
    """Metric -> line -> estimate."""
    left_out: list[str]
    """Metrics that the number of notes does not allow, each with the rule."""
    codebook: dict[str, dict[str, float]]
    """Run -> figures."""
    shown: list[dict[str, Version]] = field(default_factory=list)
    """For the notes that are shown: line -> version (one note)."""
    rows: Columns = field(default_factory=dict)
    """The evaluated notes, numbers and names alone; those shown come first."""


def evaluate(task: Task, num_notes: int, num_shown: int, progress: Progress, over: Map) -> Evaluation:
    """`evaluate_all` of one split."""
    return evaluate_all([task], {task.split: num_notes}, num_shown, lambda split: progress, over)[0]


def evaluate_all(
    tasks: Sequence[Task], num_notes: Mapping[str, int], num_shown: int, progress: Callable[[str], Progress], over: Map
) -> list[Evaluation]:
    """Of each task, whose splits alone differ: measure real notes, their pictures made sound, and each run's
    reconstructions and, where it is an autoregressor, samples and the samples' nearest training notes.

    Training notes are searched once for all splits. Raises ValueError where data set, runs and judges do not fit each
    other.
    """
    for task in tasks:
        task.check()
    outcomes = [measure_notes(task, num_notes[task.split], num_shown, progress(task.split), over) for task in tasks]
    found = nearest_training_notes(tasks[0], outcomes, progress("train"), over)
    return [
        conclude(task, of_split, *nearest, progress(task.split), over)
        for task, of_split, nearest in zip(tasks, outcomes, found, strict=True)
    ]


def measure_notes(task: Task, num_notes: int, num_shown: int, progress: Progress, over: Map) -> list[Outcome]:
    """Of the split's parts, in their order."""
    parts = cut(chosen(task.info.counts[task.split], num_notes, num_shown), num_shown)
    outcomes, count = list[Outcome](), progress("notes")
    for outcome in over(partial(measure_part, task=task), parts):
        outcomes.append(outcome)
        count(size_of(outcome.part for outcome in outcomes), size_of(parts))
    return sorted(outcomes, key=lambda outcome: outcome.part.first)


def conclude(
    task: Task,
    outcomes: Sequence[Outcome],
    nearest: Mapping[str, Tensor],
    likeness: Measured,
    progress: Progress,
    over: Map,
) -> Evaluation:
    """What follows once all parts of a split are measured; `nearest` and `likeness` are as `nearest_training_notes`
    finds them."""
    parts = [outcome.part for outcome in outcomes]
    jobs = [
        (part, {run: index_B[part.first :][: len(part.rows)].numpy() for run, index_B in nearest.items()})
        for part in parts
    ]
    copies, count = dict[int, tuple[Measured, Features]](), progress("their nearest training notes")
    for first, *found in over(partial(measure_copies, task=task), jobs if nearest else []):
        copies[first] = (found[0], found[1])
        count(size_of(part for part in parts if part.first in copies), size_of(parts))
    of_copies = [copies[first] for first in sorted(copies)]
    measured = [likeness, *(outcome.measured for outcome in outcomes), *(measures for measures, _ in of_copies)]
    features = [*(outcome.features for outcome in outcomes), *(features for _, features in of_copies)]
    rows = {name: np.concatenate([outcome.columns[name] for outcome in outcomes]) for name in outcomes[0].columns}
    unit_N = numbered(rows, task.new)
    of_sets, left_out = set_measures(joined(features), unit_N, over) if task.references else ({}, [])
    if task.wants_nearest and not task.finds_nearest:
        left_out.append("Nearest training notes are left out: the data set has no split train")
    measures = {metric: estimates(lines, unit_N) for metric, lines in joined(measured).items()}
    return Evaluation(
        split=task.split,
        num_notes=size_of(parts),
        lines=[line for line in lines_of(task.runs) if line in measures["mse"]],
        measures=measures | of_sets,
        left_out=left_out,
        codebook={
            run: usage(torch.stack([one.hits[run] for one in outcomes]).sum(0), tokenizer_of(folder)[0].config)
            for run, folder in task.runs.items()
        },
        shown=[versions for outcome in outcomes for versions in outcome.shown],
        rows=rows,
    )


def joined(parts: Iterable[Mapping[str, Mapping[str, Tensor]]]) -> dict[str, dict[str, Tensor]]:
    """What all parts have for each metric and line, one note after the other."""
    found: dict[str, dict[str, list[Tensor]]] = {}
    for part in parts:
        for metric, lines in part.items():
            for line, values in lines.items():
                found.setdefault(metric, {}).setdefault(line, []).append(values)
    return {metric: {line: torch.cat(values) for line, values in lines.items()} for metric, lines in found.items()}


def estimates(lines: Mapping[str, Tensor], unit_B: NDArray[np.int64] | None) -> dict[str, Estimate]:
    """Each line's mean over all notes, with its interval."""
    return {
        line: (share if values_B.dtype == torch.bool else bootstrap)(values_B, unit_n=unit_B)
        for line, values_B in lines.items()
    }


def chosen(num_rows: int, num_notes: int, num_shown: int) -> NDArray[np.int64]:
    """About num_notes rows that lie evenly over the split; first num_shown of them that lie evenly over these."""
    wanted = evenly(num_rows, min(num_notes, num_rows))
    first = evenly(len(wanted), min(num_shown, len(wanted)))
    return np.concatenate([wanted[first], np.delete(wanted, first)])


def size_of(parts: Iterable[Part]) -> int:
    """In notes."""
    return sum(len(part.rows) for part in parts)


def cut(rows: NDArray[np.int64], num_shown: int) -> list[Part]:
    return [
        Part(first, rows[first : first + NOTES_AT_ONCE], max(0, num_shown - first))
        for first in range(0, len(rows), NOTES_AT_ONCE)
    ]


def measure_part(part: Part, task: Task) -> Outcome:
    """Every line's figures but those of the nearest training notes."""
    info, spectrogram = task.info, task.info.spectrogram
    columns = Rows(task.data, task.split, info).take(part.rows, COLUMNS)
    real = real_version(spectrogram, columns)
    versions = {"real": real, "griffin_lim": resynthesis(real, spectrogram, task.phase)} if task.references else {}
    likeness = {"real": likeness_of(real.picture_B1FN)} if task.finds_nearest else {}
    hits, bits = dict[str, Tensor](), dict[str, Tensor]()
    for run, folder in task.runs.items():
        of_run, codes_BL = versions_of_run(folder, real, columns, part.first, task.sampling, task.phase)
        versions |= {line_of(kind, run): version for kind, version in of_run.items()}
        hits[run] = count_codes(codes_BL, tokenizer_of(folder)[0].config)
        if not is_tokenizer(folder):
            if task.finds_nearest:
                likeness[line_of("sample", run)] = likeness_of(of_run["sample"].picture_B1FN)
            bits[line_of("sample", run)] = model_of(folder).bits_per_second(codes_BL, columns)
    features = task.judges.features(versions, info)
    num_shown = min(part.num_shown, len(part.rows))
    return Outcome(
        part,
        measure(versions, real, columns, spectrogram.sample_rate, features) | ({BITS: bits} if bits else {}),
        features,
        {name: values for name, values in columns.items() if values.ndim == 1},
        likeness,
        hits,
        [{line: version.one(i) for line, version in versions.items()} for i in range(num_shown)],
    )


def measure_copies(job: tuple[Part, dict[str, NDArray[np.int64]]], task: Task) -> tuple[int, Measured, Features]:
    """The figures of training notes as if they were the samples, and the place of the first one."""
    part, nearest = job
    info, spectrogram, versions = task.info, task.info.spectrogram, dict[str, Version]()
    columns, training = Rows(task.data, task.split, info).take(part.rows, COLUMNS), Rows(task.data, "train", info)
    for run, index_B in nearest.items():
        picture_B1FN = pictures_of(training.take(index_B, ["picture"]), spectrogram).to(own_device())
        versions[line_of("nearest_training_note", run)] = sounding(picture_B1FN, spectrogram, task.phase)
    features, real = task.judges.features(versions, info), real_version(spectrogram, columns)
    return part.first, measure(versions, real, columns, spectrogram.sample_rate, features), features


def nearest_training_notes(
    task: Task, outcomes: Sequence[Sequence[Outcome]], progress: Progress, over: Map
) -> list[tuple[dict[str, Tensor], Measured]]:
    """Of each split for each run the rows (B,) of the training notes nearest to its samples; and how like they are, for
    the samples and for the real notes."""
    if not task.finds_nearest:
        return [({}, {})] * len(outcomes)
    lines = list(outcomes[0][0].likeness)
    queries = [torch.cat([outcome.likeness[line] for line in lines for outcome in of_split]) for of_split in outcomes]
    best, sizes = search(torch.cat(queries), task.data, task.info, progress, over), list(map(len, queries))
    found = list[tuple[dict[str, Tensor], Measured]]()
    for of_split in zip(*(values_B.split(sizes) for values_B in best), strict=True):
        similarity, index = (dict(zip(lines, values_B.chunk(len(lines)), strict=True)) for values_B in of_split)
        nearest = {run: index[line] for run in task.runs if (line := line_of("sample", run)) in index}
        found.append((nearest, {"training_similarity": similarity}))
    return found
