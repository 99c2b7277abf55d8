"""The way from notes to sound as a user goes it, over a real Ray runtime: what is left on disk and on the terminal."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from time import sleep
from typing import Any, NamedTuple
from urllib.request import urlopen

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from safetensors.numpy import load_file, save_file

from mars_dist import cli
from mars_dist.config import ClassifierRunConfig
from mars_dist.evaluation.evaluate import Task, evaluate
from mars_dist.evaluation.judges import Judges
from mars_dist.evaluation.measures import OF_NOTES, OF_SETS
from mars_dist.phase import DEFAULT
from mars_dist.pipeline import PAGE, TABLE, Pipeline
from mars_dist.presets import load
from mars_dist.progress import silent
from mars_dist.sampling import AS_ASKED
from mars_dist.storage import Folder
from mars_dist.training.journal import read_metrics
from mars_dist.training.plan import Plan

from ..tensorboard import events
from .kills import kill_once

COUNTS = {"train": 22, "valid": 10, "test": 33}
"""11 families of 2 instruments at 3 pitches; one wav of train is spoilt."""
LINES = ["real", "griffin_lim", "reconstruction", "sample", "nearest_training_note"]
LABELS = ["note_str", "pitch", "velocity", "instrument", "instrument_str", "family", "source", "qualities"]


class Ended(NamedTuple):
    code: object
    lines: list[str]
    """All that reached the terminal."""


def mars(*words: object) -> Ended:
    """Run `mars ...` in this process; catch what it and the processes that it starts write."""
    with pytest.MonkeyPatch.context() as patch, terminal() as read:
        patch.setattr(sys, "argv", ["mars", *map(str, words)])
        code: object = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code
        return Ended(code, read().splitlines())


@contextmanager
def terminal() -> Iterator[Callable[[], str]]:
    """Both streams, of Python and below it, go into one file; a function that reads it."""
    with open(os.memfd_create("terminal"), "w+") as file, redirect_stdout(file), redirect_stderr(file):
        kept = os.dup(1), os.dup(2)

        def read() -> str:
            file.flush()
            return Path(f"/proc/self/fd/{file.fileno()}").read_text()

        try:
            for stream in (1, 2):
                os.dup2(file.fileno(), stream)
            yield read
        finally:
            for stream, before in zip((1, 2), kept, strict=True):
                os.dup2(before, stream)
                os.close(before)


class Journey(NamedTuple):
    folder: Path
    commands: dict[str, tuple[object, ...]]
    ended: dict[str, Ended]
    spoilt: str
    """The note whose wav is none."""

    @property
    def table(self) -> str:
        """What mars evaluate wrote."""
        return "\n".join(self.ended["evaluate"].lines)


@pytest.fixture(scope="module")
def journey(tmp_path_factory: pytest.TempPathFactory) -> Journey:
    """Every command once, with the `debug` preset."""
    folder = tmp_path_factory.mktemp("journey")
    notes, pictures, codes, tokenizer, model = (folder / name for name in ("notes", "pictures", "codes", "tok", "ar"))
    few = ("--pitches", 60, 62, "--velocities", 100, "--instruments-per-family", 2, "--valid-share", 0.3)
    classifier = folder / "classifier"
    brief = ("--classifier.width", 8, "--train.steps", 20, "--train.batch-size", 4, "--train.checkpoint-every", 10)
    measured = ("--classifier", classifier, "--notes", 8, "--shown", 2)
    instruments = "--autoregressor.condition-on-instrument"
    commands: dict[str, tuple[object, ...]] = {
        "notes": ("--out", notes, *few),
        "preprocess": ("debug", "--source", notes, "--out", pictures, "--shard-rows", 16),
        "train-tokenizer": ("debug", "--data", pictures, "--out", tokenizer, "--workers", 2),
        "encode": ("--tokenizer", tokenizer, "--data", pictures, "--out", codes),
        "train-ar": ("debug", "--tokenizer", tokenizer, "--data", codes, "--out", model, "--workers", 2, instruments),
        "train-classifier": ("--data", pictures, "--out", classifier, "--workers", 0, *brief),
        "sample": (model, "--pitch", 60, "--family", "guitar", "--count", 2, "--out", folder / "samples"),
        "evaluate": (model, "--data", pictures, *measured, "--report", folder / "report.html"),
    }
    ended, spoilt = {}, None
    for name, words in commands.items():
        ended[name] = mars(name, *words)
        assert ended[name].code == 0, ended[name]
        if spoilt is None:
            spoilt = min((notes / "nsynth-train" / "audio").iterdir())
            spoilt.write_text("hello")
    assert spoilt is not None
    return Journey(folder, commands, ended, spoilt.stem)


def read_json(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text())
    return values


# ---- what is on disk


def test_a_bad_wav_is_listed_with_its_reason_and_stops_nothing(journey: Journey) -> None:
    info = read_json(journey.folder / "pictures" / "dataset.json")
    assert info["counts"] == COUNTS
    [rejected] = info["rejected"]
    assert rejected["note_str"] == journey.spoilt and rejected["split"] == "train"
    assert "not a wav file" in rejected["reason"]
    assert any(line.startswith(f"rejected {journey.spoilt} (train)") for line in journey.ended["preprocess"].lines)
    assert "not NSynth" in info["notice"] and "TimGM6mb.sf2" in info["notice"]


@pytest.mark.parametrize(
    ("kind", "arrays"), [("pictures", ["picture"]), ("codes", ["codes", "latents"])], ids=["pictures", "codes"]
)
def test_data_sets_open_in_any_parquet_reader(journey: Journey, kind: str, arrays: list[str]) -> None:
    folder, counts = journey.folder / kind, Counter[str]()
    info = read_json(folder / "dataset.json")
    assert info["kind"] == kind and info["counts"] == COUNTS
    for shard in info["shards"]:
        table = pq.read_table(folder / shard["name"])
        counts[shard["split"]] += table.num_rows
        held_out = ["wave"] if kind == "pictures" and shard["split"] != "train" else []
        assert sorted(table.column_names) == sorted(LABELS + arrays + held_out)
        assert set(table["pitch"].to_pylist()) <= {60, 61, 62}
        for name in [*arrays, *held_out]:
            [declared] = [array for array in info["arrays"] if array["name"] == name]
            values = np.frombuffer(table[name][0].as_py(), declared["dtype"])
            assert values.size == np.prod(declared["shape"]) and len(np.unique(values)) > 3
    assert counts == COUNTS
    assert {path.name for path in folder.iterdir()} == {shard["name"] for shard in info["shards"]} | {"dataset.json"}


@pytest.mark.parametrize(("kind", "name"), [("tokenizer", "tok"), ("autoregressor", "ar")], ids=["tok", "ar"])
def test_a_models_folder_holds_what_the_docs_say(journey: Journey, kind: str, name: str) -> None:
    folder = journey.folder / name
    config, metrics = read_json(folder / "config.json"), read_json(folder / "metrics.json")
    assert config["kind"] == kind
    weights = load_file(folder / "model.safetensors")
    assert len(weights) > 20 and all(np.isfinite(tensor).all() for tensor in weights.values())
    figures = {"tokenizer": ("mse", "codebook/usage_all"), "autoregressor": ("cross_entropy", "accuracy")}[kind]
    assert metrics["step"] in (10, 20) and all(np.isfinite(metrics[figure]) for figure in figures)
    assert [line["step"] for line in read_metrics(folder, "train")] == [5, 10, 15, 20]
    assert [line["step"] for line in read_metrics(folder, "valid")] == [10, 20]
    assert {"loss", "norm", "step_seconds", "samples_per_second", "data_wait"} <= read_metrics(folder, "train")[
        0
    ].keys()
    checkpoints = sorted(path.name for path in (folder / "training").glob("step_*"))
    assert checkpoints == ["step_00000010", "step_00000020"]
    inner = {path.name for path in (folder / "tokenizer").iterdir()} if kind == "autoregressor" else None
    assert inner in (None, {"config.json", "model.safetensors", "metrics.json"})


@pytest.mark.parametrize(
    ("name", "scalars", "sounds"),
    [
        (
            "tok",
            {"train/loss", "valid/mse", "valid/codebook/usage_all"},
            {f"note_{i}/reconstruction" for i in range(3)},
        ),
        (
            "ar",
            {"train/loss", "valid/cross_entropy", "valid/accuracy"},
            {f"note_{i}/{name}" for i in range(3) for name in ("reconstruction", "sample")},
        ),
    ],
)
def test_tensorboard_has_curves_pictures_and_sounds(
    journey: Journey, name: str, scalars: set[str], sounds: set[str]
) -> None:
    values = [value for event in events(journey.folder / name / "tensorboard") for value in event.summary.value]
    kinds = {
        kind: {v.tag.replace(" ", "_") for v in values if v.HasField(kind)}
        for kind in ("simple_value", "image", "audio")
    }
    assert scalars <= kinds["simple_value"]
    assert sounds <= kinds["image"] and sounds <= kinds["audio"]
    assert all(v.image.height > 100 and v.image.encoded_image_string for v in values if v.HasField("image"))
    assert all(v.audio.length_frames == 64_000 for v in values if v.HasField("audio"))


def test_many_prompts_make_a_source_of_notes_in_a_bucket(journey: Journey, bucket: str, tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"pitch": 60, "family": "guitar"}\n{"pitch": 62, "count": 2}\n')
    sample = ("sample", journey.folder / "ar", "--prompts", tmp_path / "prompts.jsonl", "--out", bucket)
    code, lines = mars(*sample)
    assert code == 0, lines
    labels = Folder.open(bucket).read("labels.csv").decode().splitlines()
    assert len(labels) == 4 and labels[1].startswith("audio/00000000.wav,60,")
    code, lines = mars("preprocess", "debug", "--source", bucket, "--out", tmp_path / "pictures")
    assert code == 0 and "from 3 notes, 0 rejected" in lines[-1]


def test_samples_are_notes_of_four_seconds(journey: Journey) -> None:
    *paths, labels = sorted((journey.folder / "samples").iterdir())
    assert [path.name for path in paths] == ["guitar-60-000.wav", "guitar-60-001.wav"]
    assert list(read_json(labels)) == [path.name for path in paths]
    for path in paths:
        wave_T, rate = soundfile.read(path)
        assert wave_T.shape == (64_000,) and rate == 16_000 and np.abs(wave_T).max() > 0


def test_every_figure_has_all_lines_its_n_and_its_interval(journey: Journey) -> None:
    values = read_json(journey.folder / "report.json")
    assert "not NSynth" in values["notice"]
    assert values["splits"].keys() == {"valid", "test"}
    for name, split in values["splits"].items():
        assert split["measures"].keys() == (OF_NOTES | OF_SETS).keys() - {"ndb"}
        assert [reason.split(" (")[0] for reason in split["left_out"]] == ["NDB/50 is left out: 4 notes in a set"]
        for measure, lines in split["measures"].items():
            few = {"training_similarity": ["real", "sample"], "bits_per_second": ["sample"]}
            assert list(lines) == few.get(measure, LINES)
            for figure in lines.values():
                low, high = figure["interval"]
                assert figure["n"] == 8 and low <= figure["value"] <= high
        assert split["measures"]["mse"]["real"]["value"] == 0
        assert f"{name}: 8 notes" in journey.table
    assert "Pitch accuracy" in journey.table and "not NSynth" in journey.table
    [rests_on] = values["rests_on"]
    assert rests_on.startswith("Classifier ") and "of 10 held-out notes right" in rests_on


def test_the_figures_are_those_of_one_process(journey: Journey) -> None:
    """Measured by workers of Ray before."""
    judges = Judges(journey.folder / "classifier")
    task = Task({"": journey.folder / "ar"}, str(journey.folder / "pictures"), "test", AS_ASKED, DEFAULT, judges)
    here = evaluate(task, 8, 2, silent, map)
    there = read_json(journey.folder / "report.json")["splits"]["test"]["measures"]
    for measure, lines in here.measures.items():
        for line, figure in lines.items():
            assert figure.value == pytest.approx(there[measure][line]["value"], rel=1e-3, abs=1e-6), (measure, line)


def test_the_page_plays(journey: Journey) -> None:
    page = (journey.folder / "report.html").read_text()
    assert page.count("<audio") == 2 * 2 * 4 + 2 * 11  # splits, notes, rungs; pitches, families
    assert "not NSynth" in page and "http://" not in page.replace("http://www.w3.org", "")


def test_a_pipeline_names_a_split_that_there_is_not_before_it_trains(journey: Journey, tmp_path: Path) -> None:
    _, _, notes, *_ = journey.commands["preprocess"]
    ended = mars("pipeline", "debug", "--source", notes, "--out", tmp_path, "--splits", "valid", "tset")
    assert ended.code == 2
    assert ended.lines[-1].endswith(
        "holds no split 'tset', it has train, valid, test: name one of these, or preprocess notes that have it "
        "(in a labels.csv the column split says so)"
    )
    assert [line for line in ended.lines if line.startswith("== ")] == ["== preprocess"]


def test_a_pipeline_evaluates_anew_what_is_asked_for_anew(
    trained_autoregressor: Plan, trained_classifier: Plan, short_pictures: str, tmp_path: Path
) -> None:
    out, model = Folder.open(tmp_path / "out"), tmp_path / "model"
    classifier = Path(shutil.copytree(trained_classifier.folder, tmp_path / "classifier"))
    shutil.copytree(trained_autoregressor.folder, model)
    first = Pipeline("notes", tmp_path / "out", load("debug"), ClassifierRunConfig(), 2, shown=1)

    def evaluated(pipeline: Pipeline) -> str:
        """What the page says, and whether it is another one than before."""
        with terminal() as read:
            table = pipeline.evaluate(out, short_pictures, model, classifier)
            assert table == out.read(TABLE).decode()
            [line] = [
                line for line in read().splitlines() if line.startswith(f"{out.at(PAGE)}: ") and "MiB" not in line
            ]
        return line.removeprefix(f"{out.at(PAGE)}: ")

    table = first.evaluate(out, short_pictures, model, classifier)
    assert "valid: 2 notes" in table and "test: 2 notes" in table
    assert evaluated(first) == "finished already: nothing to do"
    assert evaluated(replace(first, shown=2)) == "was made of shown = 1, not 2: it is made anew"
    alone = replace(first, shown=2, measured={"valid": 3})
    assert evaluated(alone) == "was made of notes.valid = 2, not 3: it is made anew"
    table = out.read(TABLE).decode()
    assert "valid: 3 notes" in table and "test: " not in table
    assert evaluated(alone) == "finished already: nothing to do"

    for folder, told in {model: "models = ['", classifier: "rests_on = ['Classifier "}.items():
        weights = load_file(folder / "model.safetensors")
        save_file({name: values * 1.01 for name, values in weights.items()}, folder / "model.safetensors")
        line = evaluated(alone)
        assert line.startswith(f"was made of {told}") and line.endswith(": it is made anew")
    assert evaluated(alone) == "finished already: nothing to do"


def test_a_page_in_a_bucket_opens_by_a_link(journey: Journey, bucket: str) -> None:
    model, pictures, address = journey.folder / "ar", journey.folder / "pictures", bucket.replace("?", "/a.html?")
    few = ("--notes", 2, "--shown", 1, "--splits", "test")
    ended = mars("evaluate", model, "--data", pictures, *few, "--report", address)
    assert ended.code == 0, ended
    [link] = [line.rpartition(": ")[0] for line in ended.lines if line.startswith("http")]
    with urlopen(link) as answer:
        assert b"MARS: notes from a next-scale transformer" in answer.read()
    assert Folder.open(bucket).list() == {"a.html", "a.json"}


# ---- what is on the terminal

OURS = (
    "notes ",
    "shards ",
    "rejected ",
    "tokenizer",
    "autoregressor",
    "classifier",
    "evaluate ",
    "valid: NDB",
    "test: NDB",
    "nothing was heard for ",  # of a busy machine
    "/",
)


def test_only_our_lines_reach_the_terminal(journey: Journey) -> None:
    for name, ended in journey.ended.items():
        lines = ended.lines
        if name == "evaluate":  # the table follows the last line of progress
            lines = lines[: next(i for i, line in enumerate(lines) if line.startswith("/")) + 1]
        assert lines and all(line.startswith(OURS) for line in lines), (name, lines)


@pytest.mark.parametrize("name", ["notes", "preprocess", "train-tokenizer", "encode", "train-ar", "train-classifier"])
def test_a_command_that_is_finished_says_so_and_does_nothing(journey: Journey, name: str) -> None:
    command = journey.commands[name]
    if name == "preprocess":  # of the notes as they were, the spoilt one included
        assert "nothing to do" in mars(name, *command).lines[-1]
    before = {path: path.stat().st_mtime_ns for path in journey.folder.rglob("*")}
    code, lines = mars(name, *command)
    assert code == 0 and len(lines) == 1
    assert "finished already" in lines[0] and lines[0].endswith("nothing to do")
    assert {path: path.stat().st_mtime_ns for path in journey.folder.rglob("*")} == before


def test_workers_that_do_not_fit_are_one_line(journey: Journey, tmp_path: Path) -> None:
    train = ("train-tokenizer", "debug", "--data", journey.folder / "pictures", "--out", tmp_path / "run", "--workers")
    assert mars(*train, 9) == (2, ["mars: --workers: 9 workers need 9 CPUs, there are 4: choose at most 4"])
    code, lines = mars(*train, 4, "--train.batch-size", 3)
    assert code == 2 and len(lines) == 1
    assert lines[0].startswith("mars: train.batch_size: 3 rows are too few for 4 workers with train.accumulate = 1")
    assert mars(*train, 2, "--min-workers", 3) == (2, ["mars: --min-workers: 3 must lie between 1 and --workers = 2"])
    assert not (tmp_path / "run").exists()


def test_a_pipeline_tells_of_workers_that_do_not_fit_before_it_begins(journey: Journey, tmp_path: Path) -> None:
    pipeline = ("pipeline", "debug", "--source", journey.folder / "notes", "--out", tmp_path / "all", "--workers")
    assert mars(*pipeline, 9) == (2, ["mars: --workers: 9 workers need 9 CPUs, there are 4: choose at most 4"])
    code, [line] = mars(*pipeline, 4, "--autoregressor.train.batch-size", 3)
    assert code == 2 and line.startswith("mars: train.batch_size: 3 rows are too few for 4 workers")
    code, [line] = mars(*pipeline, 4, "--classifier-train.replicas", 3)
    assert code == 2 and line.startswith("mars: train.replicas: 4 workers cannot be shared out among 3 replicas")
    assert not (tmp_path / "all").exists()


def test_a_worker_that_meets_a_bad_disk_is_one_line(journey: Journey, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    encode = ("encode", "--tokenizer", journey.folder / "tok", "--data", journey.folder / "pictures", "--out")
    code, lines = mars(*encode, tmp_path / "file" / "codes")
    assert code == 2 and len(lines) == 1
    assert lines[0].startswith(f"mars: {tmp_path}/file/codes: cannot be written") and "another --out" in lines[0]


# ---- a worker that dies


SHORT = """
preset = "debug"
[tokenizer.spectrogram]
num_samples = 2000
n_fft = 128
hop = 125
cmx = "4x4"
[tokenizer.tokenizer]
patch = "4x2"
scales = ["1x1", "2x1", "4x2"]
codebook_size = 32
width = 32
depth = 1
head_width = 16
[tokenizer.train]
batch_size = 4
validation_rows = 4
precision = "float32"
log_every = 1
"""
"""Steps of some milliseconds, for the notes of `short_pictures`."""


@pytest.fixture
def train(short_pictures: str, tmp_path: Path) -> tuple[object, ...]:
    (tmp_path / "short.toml").write_text(SHORT)
    return "train-tokenizer", tmp_path / "short.toml", "--data", short_pictures


def test_a_run_survives_a_killed_worker(train: tuple[object, ...], tmp_path: Path) -> None:
    train += ("--train.steps", 60, "--train.checkpoint-every", 10, "--out")
    checkpoint = tmp_path / "killed" / "training" / "step_00000020" / "position.json"
    killer = kill_once(checkpoint.exists, "RayTrainWorker")
    code, lines = mars(*train, tmp_path / "killed", "--workers", 2)
    assert code == 0, lines
    assert not killer.is_alive()
    assert any(line.startswith("tokenizer: resumed at step ") for line in lines)
    strange = [line for line in lines if not line.startswith(OURS)]
    assert len(strange) <= 1 and all("A worker died or was killed" in line for line in strange), strange  # by Ray

    assert mars(*train, tmp_path / "undisturbed", "--workers", 0).code == 0
    disturbed, undisturbed = (
        [line["loss"] for line in read_metrics(tmp_path / name, "train")] for name in ("killed", "undisturbed")
    )
    assert len(undisturbed) == 60
    np.testing.assert_allclose(disturbed, undisturbed, rtol=1e-3)


def test_a_bad_loss_ends_a_run_in_one_line_and_is_not_tried_again(train: tuple[object, ...], tmp_path: Path) -> None:
    settings = ("--optim.lr", 1e30, "--train.checkpoint-every", 1, "--workers", 2)
    code, lines = mars(*train, *settings, "--out", tmp_path / "run")
    assert code == 2 and not any("resumed" in line for line in lines)
    assert lines[-1].startswith("mars: tokenizer: not finite at step ") and "on rank 0" in lines[-1]


def test_sigterm_saves_and_a_damaged_checkpoint_is_passed_over(train: tuple[object, ...], tmp_path: Path) -> None:
    """The command in a process of its own, with a Ray runtime of its own; then again in this one, without."""
    train += ("--train.steps", 400, "--train.checkpoint-every", 50, "--out", tmp_path / "run", "--workers")
    command = [sys.executable, "-c", "from mars_dist.cli import main; main()", *map(str, train), "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    saved = tmp_path / "run" / "training" / "step_00000050" / "position.json"
    while not saved.exists():
        assert process.poll() is None
        sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said = process.communicate()[1].splitlines()
    assert process.returncode == 128 + signal.SIGTERM, said
    step = int(re.findall(r"run: stopped by SIGTERM, saved at step (\d+): the same command goes on", said[-1])[0])
    newest = tmp_path / "run" / "training" / f"step_{step:08d}"
    shard = next(newest.glob("__1_*"))
    shard.write_bytes(shard.read_bytes()[:-1])
    code, lines = mars(*train, 0)
    assert code == 0, lines
    assert any(f"checkpoint step_{step:08d} is damaged ({shard.name} has changed" in line for line in lines)
