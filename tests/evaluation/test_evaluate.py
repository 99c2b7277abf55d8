"""An evaluation of real models on real notes, in one process: what each line is, and that spreading changes nothing."""

import math
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mars_dist.addresses import Address
from mars_dist.codes import tokenizer_of as load_tokenizer_once
from mars_dist.dataset import DatasetInfo, Shard, write_shard
from mars_dist.evaluation import evaluate as module
from mars_dist.evaluation import nearest
from mars_dist.evaluation.evaluate import Evaluation, Task, chosen, cut, evaluate, evaluate_all, splits_of
from mars_dist.evaluation.grid import places_of, sample_grid, velocity_of
from mars_dist.evaluation.judges import Judges
from mars_dist.evaluation.lines import lines_of, model_of
from mars_dist.evaluation.measures import OF_NOTES, OF_SETS, measure_named
from mars_dist.evaluation.newness import INSTRUMENTS, PAIRS, newness_of, numbered
from mars_dist.evaluation.work import Progress
from mars_dist.histogram import Histogram
from mars_dist.phase import DEFAULT
from mars_dist.progress import silent
from mars_dist.rows import Rows
from mars_dist.sampling import AS_ASKED
from mars_dist.serialize import read_json
from mars_dist.storage import Folder
from mars_dist.training.journal import read_metrics
from mars_dist.training.plan import Plan

LINES = ["real", "griffin_lim", "reconstruction", "sample", "nearest_training_note"]


@pytest.fixture(scope="module")
def task(trained_autoregressor: Plan, short_pictures: str) -> Task:
    return Task({"": trained_autoregressor.folder}, short_pictures, "valid", AS_ASKED, DEFAULT, Judges())


@pytest.fixture(scope="module")
def evaluation(task: Task) -> Evaluation:
    return evaluate(task, 4, 2, silent, map)


def backwards(work: Callable[[Any], Any], items: Iterable[Any]) -> Iterable[Any]:
    """As a cluster may do it: in any order."""
    return [work(item) for item in reversed(list(items))]


def test_held_out_splits_that_there_are(short_pictures: str, tmp_path: Path) -> None:
    info = DatasetInfo.load(Folder.open(short_pictures))

    def only(*splits: str) -> str:
        folder = Folder.open(tmp_path / "_".join(splits))
        replace(info, shards=tuple(shard for shard in info.shards if shard.split in splits)).save(folder)
        return folder.name

    assert splits_of(short_pictures, 7) == {"valid": 7, "test": 7}
    assert splits_of(short_pictures, {"test": 5}) == {"test": 5}
    assert splits_of(only("train", "valid"), 7) == {"valid": 7}
    with pytest.raises(ValueError, match="holds no split 'test', it has train, valid: name one of these"):
        splits_of(only("train", "valid"), {"valid": 7, "test": 7})
    with pytest.raises(ValueError, match="holds no split 'valid', it has train, test: name one of these"):
        splits_of(only("train", "test"), 7)


def test_what_is_new_of_held_out_notes_is_found_in_the_data(short_pictures: str, tmp_path: Path) -> None:
    """There each pitch has an instrument of its own."""
    info = DatasetInfo.load(Folder.open(short_pictures))
    columns = Rows(short_pictures, "train").read(["instrument_str", "pitch"])

    def newness(pitch_up: int, **training: bool) -> str:
        folder = Folder.open(tmp_path / f"{pitch_up}_{len(training)}")
        held_out = columns | {"pitch": columns["pitch"] + pitch_up}
        splits = {"valid": held_out} | ({"train": columns} if training else {})
        for split, rows in splits.items():
            write_shard(folder, f"{split}.parquet", rows, {})
        shards = tuple(Shard(f"{split}.parquet", split, len(columns["pitch"])) for split in splits)
        replace(info, shards=shards).save(folder)
        return newness_of(folder.name, ["valid"])["valid"]

    assert newness_of(short_pictures, ("valid", "test")) == {"valid": "instruments", "test": "instruments"}
    assert newness(20, there=True) == "(instrument, pitch) pairs"
    assert newness(0, there=True) == newness(0) == "notes"


def test_notes_of_one_instrument_or_pair_have_one_number() -> None:
    names, pitches = np.array(["flute", "horn", "flute", "flute"]), np.array([60, 60, 61, 60])
    columns = {"instrument_str": names, "pitch": pitches}
    assert numbered(columns, INSTRUMENTS).tolist() == [0, 1, 0, 0]
    assert numbered(columns, PAIRS).tolist() == [0, 1, 2, 0]
    assert numbered(columns, "notes") is None


def test_intervals_are_of_what_is_new(task: Task, evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four notes of two instruments, say: values stay, and intervals are those of two."""
    monkeypatch.setattr(module, "numbered", lambda columns, kind: np.array([0, 0, 1, 1]))
    found = evaluate(replace(task, new=INSTRUMENTS), 4, 2, silent, backwards)
    for metric, of_lines in evaluation.measures.items():
        for line, estimate in of_lines.items():
            other = found.measures[metric][line]
            assert (other.value, other.n) == (estimate.value, estimate.n)
    real, other = (one.measures["pitch_accuracy"]["real"] for one in (evaluation, found))
    assert other.value == 1 and other.interval[0] < real.interval[0]


def test_every_measure_has_its_lines_and_words(evaluation: Evaluation) -> None:
    assert evaluation.num_notes == 4 and evaluation.lines == LINES
    by_note = {"pitch_accuracy", "log_spectral_distance", "multi_resolution_stft", "mel_distance", "mse", "mae"}
    for metric in by_note:
        assert list(evaluation.measures[metric]) == LINES
        assert all(estimate.n == 4 for estimate in evaluation.measures[metric].values())
    assert list(evaluation.measures["training_similarity"]) == ["real", "sample"]
    assert list(evaluation.measures["bits_per_second"]) == ["sample"]
    assert evaluation.measures.keys() == by_note | {"training_similarity", "bits_per_second"}
    assert all(measure_named(name).formula for name in evaluation.measures)
    assert measure_named("fad vggish:weights.pt").heading == "FAD, vggish"
    assert not OF_NOTES.keys() & OF_SETS.keys()


def test_real_notes_differ_from_themselves_by_nothing(evaluation: Evaluation) -> None:
    for metric in ("mse", "mae", "log_spectral_distance", "multi_resolution_stft", "mel_distance"):
        values = {line: estimate.value for line, estimate in evaluation.measures[metric].items()}
        assert values.pop("real") == 0 < min(values.values())


def test_metrics_that_need_more_notes_are_left_out_with_the_rule(evaluation: Evaluation) -> None:
    assert evaluation.left_out == [
        "NDB/50 is left out: 2 notes in a set (or a half of one), at least 250 are needed: evaluate more notes"
    ]


def test_spreading_changes_nothing(task: Task, evaluation: Evaluation) -> None:
    again = evaluate(task, 4, 2, silent, backwards)
    assert again.measures == evaluation.measures and again.codebook == evaluation.codebook
    assert again.rows["note_str"].tolist() == evaluation.rows["note_str"].tolist()


def test_training_notes_are_searched_in_pieces(
    task: Task, evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The same notes in two shards, each a piece of work."""
    folder, train = Folder.open(tmp_path), Rows(task.data, "train")
    columns = train.read(["note_str", "picture"])
    shards = list[Shard]()
    for i, places in enumerate([range(5, 12), range(5)]):
        shards.append(Shard(f"train-{i}.parquet", "train", len(places)))
        write_shard(folder, shards[-1].name, {name: values[list(places)] for name, values in columns.items()}, {})
    held_out = [shard for shard in train.info.shards if shard.split != "train"]
    for shard in held_out:
        shutil.copy(Path(task.data) / shard.name, tmp_path)
    replace(train.info, shards=(*shards, *held_out)).save(folder)
    monkeypatch.setattr(nearest, "GROUPS_AT_ONCE", 1)
    told = list[tuple[str, int, int]]()
    found = evaluate(
        replace(task, data=str(tmp_path)), 4, 2, lambda what: lambda done, of: told.append((what, done, of)), backwards
    )
    counted = [("notes", 4, 4), ("training notes", 5, 12), ("training notes", 12, 12)]
    assert told == [*counted, ("their nearest training notes", 4, 4)]
    assert found.measures["mse"] == evaluation.measures["mse"]
    for line, estimate in evaluation.measures["training_similarity"].items():
        assert found.measures["training_similarity"][line].value == pytest.approx(estimate.value, rel=1e-6)


def test_dataset_json_is_read_once_however_many_pieces_there_are(
    task: Task, evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are the more of them, and it is the longer, the more shards there are."""
    loaded, load = list[str](), DatasetInfo.load
    monkeypatch.setattr(DatasetInfo, "load", lambda folder: loaded.append(folder.name) or load(folder))
    assert evaluate(replace(task), 4, 2, silent, backwards).measures == evaluation.measures
    assert loaded == [task.data]


def test_training_notes_are_searched_once_for_all_splits(task: Task, evaluation: Evaluation) -> None:
    told = list[tuple[str, str]]()

    def progress(split: str) -> Progress:
        def of(what: str) -> Callable[[int, int], None]:
            told.append((split, what))
            return lambda done, total: None

        return of

    test = replace(task, split="test")
    both = evaluate_all([task, test], {"valid": 4, "test": 3}, 2, progress, map)
    whats = ["notes", "notes", "training notes", *2 * ["their nearest training notes"]]
    assert told == list(zip(["valid", "test", "train", "valid", "test"], whats, strict=True))
    for found, alone in zip(both, (evaluation, evaluate(test, 3, 2, silent, map)), strict=True):
        assert found.split == alone.split and found.lines == alone.lines and found.codebook == alone.codebook
        assert found.measures.keys() == alone.measures.keys()
        for metric, lines in alone.measures.items():
            for line, estimate in lines.items():
                assert found.measures[metric][line].value == pytest.approx(estimate.value, rel=1e-6)


def test_a_tokenizer_alone_has_the_reconstructions_that_its_autoregressor_has(
    task: Task, evaluation: Evaluation, trained_tokenizer: Plan
) -> None:
    alone = evaluate(replace(task, runs={"": trained_tokenizer.folder}), 4, 2, silent, map)
    assert alone.lines == LINES[:3] and alone.codebook == evaluation.codebook
    assert not alone.measures.keys() - evaluation.measures.keys()
    for metric, lines in alone.measures.items():
        assert lines == {line: evaluation.measures[metric][line] for line in LINES[:3]}
    mixed = evaluate(replace(task, runs={"a": task.runs[""], "b": trained_tokenizer.folder}), 4, 2, silent, map)
    assert mixed.lines[-1] == "reconstruction, b" and len(mixed.lines) == 6
    assert mixed.measures["mse"]["reconstruction, b"] == evaluation.measures["mse"]["reconstruction"]


def test_without_references_the_runs_own_lines_are_measured_alike(task: Task, evaluation: Evaluation) -> None:
    told = list[str]()

    def progress(what: str) -> Callable[[int, int], None]:
        told.append(what)
        return lambda done, total: None

    alone = evaluate(replace(task, references=False), 4, 2, progress, map)
    assert alone.lines == ["reconstruction", "sample"] and alone.left_out == [] and "training notes" not in told
    assert alone.measures.keys() == evaluation.measures.keys() - {"training_similarity"}
    for metric, lines in alone.measures.items():
        assert lines == {line: evaluation.measures[metric][line] for line in lines}
        assert list(lines) == [line for line in evaluation.measures[metric] if line in alone.lines]


def test_without_training_notes_the_nearest_are_left_out(
    task: Task, evaluation: Evaluation, trained_tokenizer: Plan, tmp_path: Path
) -> None:
    held_out = tuple(shard for shard in task.info.shards if shard.split != "train")
    for shard in held_out:
        shutil.copy(Path(task.data) / shard.name, tmp_path)
    replace(task.info, shards=held_out).save(Folder.open(tmp_path))
    without = replace(task, data=str(tmp_path))
    found = evaluate(without, 4, 2, silent, map)
    assert found.lines == LINES[:4] and "training_similarity" not in found.measures
    told = "Nearest training notes are left out: the data set has no split train"
    assert found.left_out == [*evaluation.left_out, told]
    for metric, lines in found.measures.items():
        assert lines == {line: evaluation.measures[metric][line] for line in lines}
    alone = evaluate(replace(without, runs={"": trained_tokenizer.folder}), 4, 2, silent, map)
    assert alone.left_out == evaluation.left_out


def test_models_side_by_side_are_loaded_once(task: Task, trained_tokenizer: Plan, tmp_path: Path) -> None:
    runs: dict[str, Address] = {}
    for name in "abc":
        runs[name] = shutil.copytree(trained_tokenizer.folder, tmp_path / name)
    before = load_tokenizer_once.cache_info().misses
    evaluate(replace(task, runs=runs), 4, 0, silent, map)
    assert load_tokenizer_once.cache_info().misses == before + 3


def test_bits_are_what_validation_finds(evaluation: Evaluation, trained_autoregressor: Plan) -> None:
    """On the same four notes, in the same precision, an eighth of a second each."""
    [*_, last] = read_metrics(trained_autoregressor.folder, "valid")
    bits = last["cross_entropy"] * 11 / math.log(2) / 0.125
    assert last["step"] == read_json(trained_autoregressor.folder / "metrics.json")["step"]
    assert evaluation.measures["bits_per_second"]["sample"].value == pytest.approx(bits, rel=1e-4)


def test_what_is_shown_are_the_first_rows(task: Task, evaluation: Evaluation) -> None:
    assert len(evaluation.shown) == 2
    for i, versions in enumerate(evaluation.shown):
        assert list(versions) == LINES[:4]
        wanted = np.array([chosen(4, 4, 2)[i]])
        wave_BT = torch.from_numpy(Rows(task.data, "valid").take(wanted, ["wave"])["wave"].astype(np.float32)) / 2**15
        assert torch.equal(versions["real"].wave_BT, wave_BT)


def test_two_runs_share_the_real_notes_and_are_measured_alike(
    task: Task, evaluation: Evaluation, tmp_path: Path
) -> None:
    """The same model twice, under two names."""
    other = Path(shutil.copytree(task.runs[""], tmp_path / "other"))
    both = evaluate(replace(task, runs={"a": task.runs[""], "b": other}), 4, 2, silent, map)
    assert both.lines == lines_of({"a": other, "b": other}) and len(both.lines) == 8
    for metric in ("mse", "mel_distance"):
        lines, alone = both.measures[metric], evaluation.measures[metric]
        assert lines["sample, a"] == lines["sample, b"] == alone["sample"]
        assert lines["real"] == alone["real"]
    lines, alone = (of.measures["training_similarity"] for of in (both, evaluation))
    assert lines["sample, a"] == lines["sample, b"]
    for line, own in (("sample, a", "sample"), ("real", "real")):  # MKL rounds a product of 12 rows not as that of 8
        assert lines[line].value == pytest.approx(alone[own].value, rel=1e-6)
    assert both.codebook["a"] == both.codebook["b"] == evaluation.codebook[""]


def test_a_data_set_with_other_pictures_is_refused(task: Task, short_codes: str) -> None:
    with pytest.raises(ValueError, match=r"holds codes, not pictures: give the --out of mars preprocess"):
        replace(task, data=short_codes).check()


def test_the_grid_has_what_training_had(task: Task) -> None:
    """Each note's family follows from its pitch there: of eleven families and six pitches few pairs meet."""
    families, pitches, places = places_of(model_of(task.runs[""]).histogram)
    assert len(families) == 11 and len(pitches) == 6 and pitches[0] == 49 and pitches[-1] == 60
    assert sorted(pitch for _, pitch in places) == pitches
    made = sample_grid(task, task.runs[""], map)
    assert made.keys() == places
    assert all(version.wave_BT.shape == (1, 2000) for version in made.values())
    again = sample_grid(task, task.runs[""], backwards)
    assert all(torch.equal(made[place].wave_BT, again[place].wave_BT) for place in places)


def test_the_grid_asks_for_nothing_that_training_never_had() -> None:
    """Sampled every fourth semitone, at other levels than the usual one."""
    pitches = torch.arange(36, 85, 4)
    notes = {"family": torch.zeros_like(pitches), "pitch": pitches, "velocity": torch.arange(len(pitches)) % 2}
    few = Histogram.of(notes)
    assert places_of(few)[1] == [36, 44, 56, 64, 76, 84] and len(places_of(few)[2]) == 6
    assert velocity_of(few) == 50
    assert velocity_of(Histogram.of(notes | {"velocity": torch.full_like(pitches, 4)})) == 127
    assert velocity_of(Histogram.of(notes | {"velocity": pitches % 5})) == 100
    one = Histogram.of({name: values[:1] for name, values in notes.items()})
    assert places_of(one)[1] == [36]


def test_rows_are_spread_evenly_and_those_shown_come_first() -> None:
    assert chosen(100, 10, 2).tolist() == [0, 99, 11, 22, 33, 44, 55, 66, 77, 88]
    assert chosen(3, 10, 0).tolist() == [0, 1, 2]
    parts = cut(chosen(100, 20, 10), 10)
    assert [part.first for part in parts] == [0, 8, 16] and [part.num_shown for part in parts] == [10, 2, 0]
