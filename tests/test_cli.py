"""Commands as a user types them, without a cluster: help, and one line for each mistake."""

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest
import soundfile
import torch

from mars_dist import cli
from mars_dist.autoregressor import Autoregressor
from mars_dist.conditions import Vocabulary
from mars_dist.config import AutoregressorRunConfig
from mars_dist.histogram import Histogram
from mars_dist.model import keep_tokenizer, load_tokenizer, save_autoregressor
from mars_dist.phase import Phase
from mars_dist.presets import PRESETS
from mars_dist.serialize import read_json
from mars_dist.training.batches import Batch
from mars_dist.training.classifier_stage import ClassifierStage
from mars_dist.training.plan import Plan

from .storage.faulty import FaultyProxy


class Ended(NamedTuple):
    code: object
    out: str
    err: str


MarsCommand = Callable[..., Ended]


@pytest.fixture
def mars(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> MarsCommand:
    """Run `mars ...` in this process."""

    def run(*words: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["mars", *map(str, words)])
        code: object = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code or 0
        return Ended(code, *capsys.readouterr())

    return run


@pytest.fixture
def refused(mars: MarsCommand) -> Callable[..., str]:
    """Run `mars ...`, which is a user's mistake; the one line that tells it."""

    def run(*words: object) -> str:
        ended = mars(*words)
        assert ended.code == 2, ended
        assert ended.out == ""
        [line] = ended.err.splitlines()
        assert line.startswith("mars: ")
        return line.removeprefix("mars: ")

    return run


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """No folder can be made below it."""
    (tmp_path / "file").touch()
    return tmp_path / "file"


@pytest.fixture(scope="module")
def without_instruments(trained_autoregressor: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights that knows no instruments."""
    run, tokenizer_folder = trained_autoregressor.config, trained_autoregressor.tokenizer_folder
    assert isinstance(run, AutoregressorRunConfig)
    run = replace(run, autoregressor=replace(run.autoregressor, condition_on_instrument=False))
    vocabulary, (_, tokenizer_run) = Vocabulary(), load_tokenizer(tokenizer_folder)
    model = Autoregressor(run.autoregressor, tokenizer_run.tokenizer, vocabulary.cardinalities)
    folder = tmp_path_factory.mktemp("without") / "model"
    histogram = Histogram.of(vocabulary.of_words(1, pitch=60, velocity=100, family="guitar", source="acoustic"))
    keep_tokenizer(folder, tokenizer_folder)
    save_autoregressor(folder, model.state_dict(), run, vocabulary, histogram, {})
    return folder


# ---- help


def test_help_lists_every_command_and_loads_neither_torch_nor_ray() -> None:
    code = (
        "import sys; sys.argv = ['mars', '--help']\n"
        "from mars_dist.cli import main; main()\n"
        "assert not {'torch', 'ray', 'pyarrow'} & set(sys.modules)"
    )
    text = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    commands = [line.split()[0] for line in text.splitlines() if line.startswith("  ")]
    assert commands == list(cli.COMMANDS)
    assert "quickstart" in commands and "train-ar" in commands
    assert max(map(len, text.splitlines())) <= 80, "a terminal's width"


def test_the_console_script_is_installed() -> None:
    script = Path(sys.executable).with_name("mars")
    text = subprocess.run([script], capture_output=True, text=True, check=True).stdout
    assert text.startswith("usage: mars COMMAND")


@pytest.mark.parametrize("words", [["--help"], ["presets", "debug"], ["train-ar", "tiny", "--help"]])
@pytest.mark.parametrize("buffered", [True, False])
def test_a_reader_that_has_ended_is_no_mistake(words: list[str], buffered: bool) -> None:
    """Such as head, once it has its lines."""
    read, write = os.pipe()
    os.close(read)
    environment = os.environ | {"PYTHONUNBUFFERED": "" if buffered else "1"}
    script = Path(sys.executable).with_name("mars")
    ended = subprocess.run([script, *words], stdout=write, stderr=subprocess.PIPE, text=True, env=environment)
    os.close(write)
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGPIPE, "")


def test_another_pipe_that_breaks_is_told(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(arguments: Sequence[str]) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setitem(cli.COMMANDS, "show", lost)
    with pytest.raises(SystemExit, match="2"):
        cli.main(["show"])
    assert capfd.readouterr().err == "mars: [Errno 32] Broken pipe\n"


@pytest.mark.skipif(sys.platform != "linux", reason="Ray has its jemalloc for Linux")
@pytest.mark.parametrize(("preloaded", "expected"), [({}, "True"), ({"LD_PRELOAD": ""}, "False")])
def test_the_console_script_begins_anew_with_our_allocator(preloaded: dict[str, str], expected: str) -> None:
    """The same process with the same words, once; but not where its user has chosen an allocator."""
    code = (
        "import os, sys; from mars_dist import __main__, cli\n"
        "maps = open('/proc/self/maps').read()\n"
        "cli.main = lambda: print('libjemalloc.so' in maps, os.getpid(), *sys.argv)\n"
        "__main__.main()"
    )
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"} | preloaded
    words = [sys.executable, "-c", code, "sample", "a model"]
    process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True)
    text, _ = process.communicate()
    assert text == f"{expected} {process.pid} -c sample a model\n"


@pytest.mark.parametrize("ends", ["None", "sys.exit(2)"])
def test_at_the_end_nothing_is_looked_through_for_garbage(ends: str) -> None:
    code = (
        "import atexit, gc, sys; from mars_dist import __main__, cli\n"
        f"cli.main = lambda: {ends}\n"
        "atexit.register(lambda: print(gc.get_freeze_count() > 10 * gc.get_count()[0]))\n"
        "__main__.main()"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "True\n"


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_help(mars: MarsCommand, command: str) -> None:
    ended = mars(command, "--help")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith(f"usage: mars {command} ")
    assert cli.COMMANDS[command].__doc__ in mars("--help").out


@pytest.mark.parametrize(("words", "preset"), [(["debug"], "debug"), ([], "tiny")])
def test_help_after_a_preset_shows_its_values(mars: MarsCommand, words: list[str], preset: str) -> None:
    scales = " ".join(map(str, PRESETS[preset].tokenizer.tokenizer.scales))
    assert f"(default: {scales})" in " ".join(mars("train-tokenizer", *words, "--help").out.split())


def test_a_preset_of_ones_own_is_shown(mars: MarsCommand, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('preset = "debug"\n[tokenizer.tokenizer]\nscales = ["1x1", "2x2", "3x3"]\n')
    lines = [line.split() for line in mars("presets", path).out.splitlines()]
    assert lines[0] == ["preset", "mine"]
    assert ["tokens", "L", "14"] in lines and ["latent", "grid", "3x3"] in lines
    assert "| tokens L | 21 |" in mars("presets", "debug", "--markdown").out.splitlines()


def test_a_check_with_settings_of_either_stage(mars: MarsCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    words = ("--tokenizer.train.batch-size", 8, "--autoregressor.train.steps", 40, "--workers", 2, "--device", "l4")
    out = mars("check", "debug", *words, "--notes", 80, "--price", 1.5).out
    assert "tokenizer: 20 steps of" in out and "each of 80 notes is seen 2 times" in out
    assert "autoregressor: 40 steps of" in out and "it costs 0" in out


# ---- mistakes


def test_unknown_names(refused: Callable[..., str]) -> None:
    assert refused("fly") == f"fly: there is no such command: choose {', '.join(cli.COMMANDS)}"
    assert refused("preprocess", "huge") == (
        f"huge: there is no such preset: choose {', '.join(PRESETS)}, or give a .toml file"
    )
    assert refused("presets", "huge").startswith("huge: there is no such preset")
    assert refused("quickstart", "--preset", "huge").startswith("huge: there is no such preset")
    assert refused("check") == "mars check: name a preset or a .toml first, such as: mars check tiny ..."
    assert refused("train-ar") == ("mars train-ar: name a preset or a .toml first, such as: mars train-ar tiny ...")


def test_a_preset_of_ones_own_with_a_typo(refused: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    assert refused("train-tokenizer", path) == f"{path}: there is no such file"
    path.write_text('preset = "debug"\n[tokenizer.optim]\nlearning = 1\n')
    assert refused("train-tokenizer", path).startswith("tokenizer.optim.learning: unknown setting")


def test_a_mistyped_option_is_one_line_with_the_nearest_one(refused: Callable[..., str]) -> None:
    line = refused("train-tokenizer", "debug", "--data", "x", "--optim.lrr", "1")
    assert line.startswith("Unrecognized options: --optim.lrr, 1 Perhaps you meant: --optim.lr FLOAT")
    line = refused("train-tokenizer", "debug", "--data", "x", "--optim.lr", "fast")
    assert line.startswith("Error parsing --optim.lr: could not convert string to float: 'fast'")
    assert refused("sample").startswith("Missing from mars sample: STR Folder that mars train-ar wrote.")


def test_each_number_of_a_list_is_checked(mars: MarsCommand) -> None:
    ended = mars("sample", "x", "--sampling.top-p", 0.9, 0)
    assert ended.code == 2 and "sampling.top_p[1]: 0.0 must be above 0 and at most 1" in ended.err


def test_a_missing_source(refused: Callable[..., str], tmp_path: Path) -> None:
    line = refused("preprocess", "debug", "--source", tmp_path / "none", "--out", tmp_path / "out")
    assert line == f"{tmp_path}/none: no such folder, or nothing in it: check the path"
    assert not (tmp_path / "out").exists()


def test_what_the_disk_refuses_is_one_line(refused: Callable[..., str], trained_autoregressor: Plan) -> None:
    line = refused("sample", trained_autoregressor.folder, "--prompts", "typo.csv")
    assert "No such file or directory" in line and "typo.csv" in line


def test_numbers_and_names_that_lead_nowhere(
    refused: Callable[..., str], trained_autoregressor: Plan, short_pictures: str, tmp_path: Path
) -> None:
    line = refused("preprocess", "debug", "--source", tmp_path, "--out", tmp_path / "out", "--shard-rows", -1)
    assert line == "--shard-rows: -1 must be at least 1"
    evaluate = ("evaluate", trained_autoregressor.folder, "--data", short_pictures)
    for name in (str(tmp_path), "figures.json", "/"):
        assert refused(*evaluate, "--report", name) == f"--report: {name} must be a file whose name ends in .html"
    assert refused(*evaluate, "--splits", "train").startswith("--splits: train is not held out")


def test_data_that_does_not_fit(
    refused: Callable[..., str], short_pictures: str, short_codes: str, tmp_path: Path
) -> None:
    train = ("train-tokenizer", "debug", "--workers", "0", "--out", tmp_path / "run", "--data")
    assert refused(*train, tmp_path / "none") == (
        f"{tmp_path}/none: no data set there: check the path, or make one with mars preprocess"
    )
    half = tmp_path / "half"
    shutil.copytree(short_pictures, half)
    (half / "dataset.json").unlink()
    assert refused(*train, half) == (
        f"{half}: has no dataset.json, so it is half-written or no data set: "
        "run the command that makes it again to finish it"
    )
    assert refused(*train, short_pictures).startswith(
        "spectrogram.num_samples: 64000 is asked for, the data set was made with 2000: "
        "set --spectrogram.num-samples 2000, or preprocess"
    )
    assert refused(*train, short_codes) == (
        f"{short_codes}: holds codes, not pictures: give the --out of mars preprocess"
    )
    assert not (tmp_path / "run").exists()


def test_a_classifier_takes_the_spectrogram_of_its_data(
    refused: Callable[..., str], short_pictures: str, short_codes: str, tmp_path: Path
) -> None:
    train = ("train-classifier", "--workers", "0", "--out", tmp_path / "run", "--data")
    assert refused(*train, tmp_path / "none") == (
        f"{tmp_path}/none: no data set there: check the path, or make one with mars preprocess"
    )
    assert refused(*train, short_pictures, "--classifier.frames", 17) == (
        "classifier.frames: 17 is more than the picture's 16 frames: choose at most so many"
    )
    assert refused(*train, short_codes) == (
        f"{short_codes}: holds codes, not pictures: give the --out of mars preprocess"
    )
    line = refused(*train, short_pictures, "--spectrogram.hop", 250)
    assert line.startswith("Unrecognized options: --spectrogram.hop")
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_that_does_not_fit(
    refused: Callable[..., str],
    trained_tokenizer: Plan,
    trained_autoregressor: Plan,
    short_codes: str,
    short_pictures: str,
    tmp_path: Path,
) -> None:
    options = ("--workers", "0", "--out", tmp_path / "run", "--data", short_codes, "--tokenizer")
    train = ("train-ar", "debug", *options)
    encode = ("encode", "--data", short_pictures, "--out", tmp_path / "codes", "--tokenizer")
    for command in (train, encode):
        assert refused(*command, tmp_path) == (
            f"{tmp_path}: holds no trained tokenizer (config.json and model.safetensors): "
            "give the --out of its training"
        )
        folder = trained_autoregressor.folder
        assert refused(*command, folder) == f"{folder}: holds a model of kind 'autoregressor', wanted is 'tokenizer'"
    other = tmp_path / "other"
    shutil.copytree(trained_tokenizer.folder, other)
    (other / "config.json").write_text((other / "config.json").read_text() + "\n")
    assert refused(*train, other) == (
        f"{short_codes}: these codes were made by another tokenizer than {other}: "
        "run mars encode with this tokenizer into another folder"
    )
    assert not (tmp_path / "run").exists() and not (tmp_path / "codes").exists()


def test_what_a_model_does_not_know(
    refused: Callable[..., str],
    trained_autoregressor: Plan,
    without_instruments: Path,
    short_pictures: str,
    tmp_path: Path,
) -> None:
    sample = ("sample", trained_autoregressor.folder, "--out", tmp_path / "out")
    assert refused(*sample, "--pitch", 128) == "pitch: 128 is no MIDI number: choose 0 to 127"
    assert refused(*sample, "--family", "gitar").startswith(
        "family: 'gitar' is unknown to this model: choose from bass, brass, flute, guitar,"
    )
    assert refused(*sample, "--source", "x").endswith("choose from acoustic, electronic, synthetic")
    line = refused(*sample, "--instrument", "guitar_acoustic_999")
    assert line.startswith("instrument: 'guitar_acoustic_999' is unknown to this model: choose from bass_acoustic_055,")
    assert refused("sample", without_instruments, "--instrument", "guitar_acoustic_052") == (
        "instrument: 'guitar_acoustic_052': this model was not conditioned on instruments: leave it out"
    )
    assert refused(*sample, "--velocity", 500) == "velocity: 500 is no MIDI velocity: choose 1 to 127"
    assert refused(*sample, "--qualities", "bright") == (
        "qualities: 'bright': this model was not conditioned on qualities: leave them out"
    )
    evaluate = ("evaluate", trained_autoregressor.folder, "--data", short_pictures)
    for command in (sample, evaluate):
        assert refused(*command, "--sampling.temperature", "1.0", "0.9") == (
            "sampling.temperature: 2 values (1.0 0.9) for the 3 scales of this model (1x1 2x1 4x2): "
            "give one number, or one for each scale"
        )
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_model(refused: Callable[..., str], trained_tokenizer: Plan, tmp_path: Path) -> None:
    assert refused("sample", tmp_path).startswith(f"{tmp_path}: holds no trained autoregressor")
    line = refused("sample", trained_tokenizer.folder)
    assert line == f"{trained_tokenizer.folder}: holds a model of kind 'tokenizer', wanted is 'autoregressor'"


def test_numbers_that_make_no_sense(refused: Callable[..., str], tmp_path: Path) -> None:
    train = ("train-tokenizer", "debug", "--data", tmp_path, "--out", tmp_path / "run")
    assert refused(*train, "--workers", "-1") == "--workers: -1 must be 0 (in this process, without Ray) or more"
    assert refused("sample", tmp_path, "--count", 0) == "--count: 0 must be at least 1"
    evaluate = ("evaluate", tmp_path, "--data", tmp_path)
    assert refused(*evaluate, "--notes", 0) == "--notes: 0 must be at least 1"
    assert refused(*evaluate, "--shown", -1) == "--shown: -1 must be at least 0"
    assert refused(*evaluate, "--splits") == "--splits: none is named: name one or more, such as valid test"
    assert refused("notes", "--out", tmp_path, "--pitches", 60, 50).startswith("notes.pitches: 60 50 must be")


def test_a_folder_that_cannot_be_written(
    refused: Callable[..., str], trained_autoregressor: Plan, short_codes: str, short_pictures: str, file: Path
) -> None:
    ar = trained_autoregressor
    assert refused("encode", "--data", short_pictures, "--tokenizer", ar.tokenizer, "--out", file) == (
        f"{file}: cannot be read ([Errno 20] Not a directory: '{file}'): choose another --out"
    )
    train = ("train-ar", "debug", "--workers", "0", "--data", short_codes, "--tokenizer", ar.tokenizer)
    assert refused(*train, "--out", file / "run") == (
        f"{file}/run/training: cannot be written ([Errno 20] Not a directory: '{file}/run/training'): "
        "choose another --out"
    )
    made = f"{file}/out: cannot be made (Not a directory): choose another "
    assert refused("sample", ar.folder, "--out", file / "out") == f"{made}--out"
    assert refused("quickstart", "--out", file / "out") == f"{made}--out"
    report = ("--report", file / "out" / "report.html")
    assert refused("evaluate", ar.folder, "--data", "x", *report) == (
        f"{file}/out: cannot be written ([Errno 20] Not a directory: '{file}/out'): choose another --report"
    )
    assert refused("notes", "--out", file / "out").startswith(f"{file}/out: cannot be written (Not a directory)")


def test_a_picture_is_a_file_with_the_name_of_one(
    mars: MarsCommand, refused: Callable[..., str], short_pictures: str, tmp_path: Path
) -> None:
    """Told before a data set is looked through; of any kind that Pillow writes."""
    for name in (str(tmp_path), "examples", "examples.txt"):
        line = refused("show", "data", "--out", name)
        assert line == f"--out: {name} must be a file whose name ends as a picture's does, such as .png, .jpg"
    for name in ("x.JPEG", "x.pdf"):
        assert mars("show", short_pictures, "--out", tmp_path / name).code == 0 and (tmp_path / name).stat().st_size


def test_what_a_full_disk_refuses_is_named_and_no_half_of_it_is_left(
    mars: MarsCommand, trained_autoregressor: Plan, short_pictures: str, tmp_path: Path
) -> None:
    """One that takes no file of more than 1,000 bytes; the error itself names none."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        sample = mars("sample", trained_autoregressor.folder, "--out", tmp_path / "out")
        show = mars("show", short_pictures, "--out", tmp_path / "x.png")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    told = "cannot be written (File too large): choose another --out"
    assert (sample.code, sample.err) == (2, f"mars: {tmp_path}/out/note-000.wav: {told}\n")
    assert not any((tmp_path / "out").iterdir())
    assert (show.code, show.err) == (2, f"mars: {tmp_path}/x.png: {told}\n")


def test_what_is_no_model_gets_no_folder(refused: Callable[..., str], short_pictures: str, tmp_path: Path) -> None:
    line = refused("evaluate", tmp_path / "typo", "--data", short_pictures)
    assert line.startswith(f"{tmp_path}/typo: holds no trained ")
    assert not (tmp_path / "typo").exists()


def test_sounds_are_made_on_this_machine(refused: Callable[..., str], trained_autoregressor: Plan) -> None:
    address = "s3://bucket/out"
    for command in (("sample", trained_autoregressor.folder, "--out", address), ("quickstart", "--out", address)):
        assert refused(*command) == f"{address}: is behind an address: sounds and drawings are written on this machine"


def test_a_bucket_that_holds_no_model_is_named(
    refused: Callable[..., str], trained_tokenizer: Plan, short_pictures: str, short_codes: str, bucket: str
) -> None:
    name = bucket.partition("?")[0]
    wanted = {
        "autoregressor": [("sample", bucket), ("evaluate", bucket, "--data", short_pictures)],
        "tokenizer": [
            ("encode", "--data", short_pictures, "--tokenizer", bucket, "--out", "x"),
            ("train-ar", "debug", "--workers", 0, "--data", short_codes, "--tokenizer", bucket, "--out", "x"),
        ],
    }
    for kind, commands in wanted.items():
        for command in commands:
            assert refused(*command).startswith(f"{name}") and f"holds no trained {kind}" in refused(*command)
    train = ("train-tokenizer", "debug", "--data", short_pictures, "--workers", 0, "--out", bucket)
    assert refused(*train) == f"{bucket}: --workers 0 keeps its run on a disk: choose a local --out, or --workers 1"


def test_debug_gives_the_traceback(mars: MarsCommand, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no trained autoregressor"):
        mars("sample", tmp_path, "--debug")


# ---- what goes right, without a cluster


def test_a_sample_is_a_wav_file_named_after_what_was_asked_for(
    mars: MarsCommand, trained_autoregressor: Plan, tmp_path: Path
) -> None:
    asked = ("--pitch", 60, "--family", "guitar", "--count", 2)
    ended = mars("sample", trained_autoregressor.folder, *asked, "--out", tmp_path / "out")
    paths = [tmp_path / "out" / f"guitar-60-{i:03d}.wav" for i in range(2)]
    assert ended == (0, "", "".join(f"{path}\n" for path in paths))
    labels = tmp_path / "out" / "guitar-60.json"
    assert sorted((tmp_path / "out").iterdir()) == [*paths, labels]
    for path in paths:
        wave_T, rate = soundfile.read(path)
        assert wave_T.shape == (2000,) and rate == 16_000


def test_the_labels_of_samples_have_what_was_drawn(
    mars: MarsCommand, trained_autoregressor: Plan, tmp_path: Path
) -> None:
    def sample(out: str, *options: object) -> dict[str, Any]:
        asked = ("--pitch", 60, "--velocity", 70, "--count", 2, "--out", tmp_path / out)
        assert mars("sample", trained_autoregressor.folder, *asked, *options).code == 0
        labels: dict[str, Any] = read_json(tmp_path / out / "60-70.json")
        return labels

    lists = ("--sampling.guidance", 0, 1, 2, "--sampling.top-k", 8, 4, 2, "--sampling.temperature", 1)
    asked = {"pitch": 60, "velocity": 75}
    drawn = {"family": "mallet", "source": "acoustic", "instrument": "mallet_acoustic_060"}
    assert sample("drawn", *lists) == {f"60-70-00{i}.wav": asked | drawn for i in range(2)}
    left_open = dict.fromkeys(drawn, None)
    assert sample("open", "--sampling.unasked", "null") == {f"60-70-00{i}.wav": asked | left_open for i in range(2)}


def test_a_sample_sounds_by_the_phase_that_is_asked_for(
    mars: MarsCommand, trained_autoregressor: Plan, tmp_path: Path
) -> None:
    sounds = set()
    for phase in get_args(Phase):
        ended = mars("sample", trained_autoregressor.folder, "--phase", phase, "--out", tmp_path / phase)
        assert ended.code == 0
        sounds.add((tmp_path / phase / "note-000.wav").read_bytes())
    assert len(sounds) == 3
    refusal = mars("sample", trained_autoregressor.folder, "--phase", "guess").err
    assert mars("evaluate", "x", "--data", "y", "--phase", "guess").code == 2
    assert all(phase in refusal for phase in get_args(Phase))


def test_fine_tuning_of_another_shape_is_refused(
    refused: Callable[..., str], trained_tokenizer: Plan, trained_autoregressor: Plan, tmp_path: Path
) -> None:
    """Before anything is trained."""
    short = ("--spectrogram.num-samples", 2000, "--spectrogram.n-fft", 128, "--spectrogram.cmx", "4x4")
    patch = ("--tokenizer.patch", "4x2", "--tokenizer.scales", "1x1", "4x2")
    options = ("--data", trained_tokenizer.data, "--out", tmp_path / "run", "--workers", 0, *short, *patch)
    train = ("train-tokenizer", "debug", *options, "--init-from")
    assert refused(*train, tmp_path / "none").startswith(f"{tmp_path}/none: holds no trained tokenizer")
    line = refused(*train, trained_tokenizer.folder)
    assert line.startswith(
        f"--init-from {trained_tokenizer.folder}: its model has tokenizer.scales = ['1x1', '2x1', '4x2']"
    )
    options = ("--data", trained_autoregressor.data, "--tokenizer", trained_autoregressor.tokenizer, "--workers", 0)
    line = refused("train-ar", "debug", *options, "--out", tmp_path / "ar", "--init-from", trained_autoregressor.folder)
    assert line.endswith("its model has autoregressor.width = 32, not 64: use its settings, or leave it out")
    assert not (tmp_path / "run").exists() and not (tmp_path / "ar").exists()


def test_a_finished_training_is_left_alone(mars: MarsCommand, trained_tokenizer: Plan, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ("--data", trained_tokenizer.data, "--out", run, "--workers", 0, "--train.steps", 5)
    short = ("--spectrogram.num-samples", 2000, "--spectrogram.n-fft", 128, "--spectrogram.cmx", "4x4")
    command = (
        "train-tokenizer",
        "debug",
        *options,
        *short,
        "--tokenizer.patch",
        "4x1",
        "--tokenizer.scales",
        "1x1",
        "4x4",
    )
    first = mars(*command)
    assert first.code == 0 and first.err.endswith(f"{run}: finished\n")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert mars(*command) == (0, "", f"{run}: finished already: nothing to do\n")
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    again = mars(*command, "--optim.lr", 0.5)
    assert again.code == 2
    assert again.err == (
        f"mars: {run}: holds a run with optim.lr = 0.002, not 0.5: use its settings, or choose another --out\n"
    )


def test_a_classifier_is_trained_on_any_pictures(mars: MarsCommand, short_pictures: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    few = ("--train.steps", 2, "--train.batch-size", 4, "--classifier.width", 4)
    ended = mars("train-classifier", "--data", short_pictures, "--out", run, "--workers", 0, *few)
    assert ended.code == 0 and ended.err.endswith(f"{run}: finished\n")
    assert read_json(run / "config.json")["run"]["spectrogram"]["n_fft"] == 128
    assert read_json(run / "metrics.json")["step"] == 2


def test_a_home_behind_an_option_is_found(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert refused("show", "--out=~/x.png", "~/gone").startswith("~/gone: ")
    assert refused("preprocess", "tiny", "--source=~/gone", "--out=x").startswith("/home/me/gone: ")


def test_where_a_gpu_has_no_memory_left_the_advice_helps(
    mars: MarsCommand, short_pictures: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One that holds two rows of four."""
    losses = ClassifierStage.losses

    def on_a_small_gpu(stage: ClassifierStage, batch: Batch, step: int) -> dict[str, torch.Tensor]:
        if len(batch["place"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity")
        return losses(stage, batch, step)

    monkeypatch.setattr(ClassifierStage, "losses", on_a_small_gpu)
    few = ("--train.steps", 2, "--train.batch-size", 4, "--classifier.width", 4, "--workers", 0)
    command = ("train-classifier", "--data", short_pictures, "--out", tmp_path / "run", *few)
    ended = mars(*command)
    assert ended.code == 2
    assert f"\nmars: {tmp_path}/run: a GPU has no memory left: raise --train.accumulate" in ended.err
    assert mars(*command, "--train.accumulate", 2).code == 0


def test_a_sweep_that_cannot_be_run(refused: Callable[..., str], short_pictures: str, tmp_path: Path) -> None:
    tune = ("tune", tmp_path / "mine.py", "--data", short_pictures, "--out", tmp_path / "out")
    assert refused(*tune) == f"{tmp_path}/mine.py: there is no such file: name one such as tune/scale_schedules.py"
    head = "from mars_dist.sweeps import Sweep, choices\n"
    (tmp_path / "mine.py").write_text(f"{head}SWEEP = Sweep('tokenizer', {{'lr': choices('tokenizer.optim.lr', -1)}})")
    assert refused(*tune) == f"{tmp_path}/mine.py: space: lr: -1: optim.lr: -1.0 must be above 0"
    (tmp_path / "mine.py").write_text(f"{head}SWEEP = Sweep('tokenizer', {{'lr': choices('tokenizer.optim.lr', 1)}})")
    assert refused(*tune, "--trials", 0) == "--trials: 0 must be at least 1"
    assert refused(*tune, "--notes", 0) == "--notes: 0 must be at least 1"
    assert refused(*tune).startswith("lr: 1: spectrogram.num_samples: 64000 is asked for, the data set was made with")
    assert not (tmp_path / "out").exists()


# ---- a bucket


@pytest.mark.parametrize(
    "words",
    [
        ("preprocess", "debug", "--source", "{bucket}", "--out", "{here}/out"),
        ("preprocess", "debug", "--source", "{notes}", "--out", "{bucket}"),
        ("train-tokenizer", "debug", "--data", "{bucket}", "--out", "{here}/out", "--workers", "0"),
        ("train-tokenizer", "debug", "--data", "{pictures}", "--out", "{bucket}", "--workers", "0"),
        ("show", "{bucket}"),
        ("evaluate", "{bucket}", "--data", "{pictures}"),
        ("tune", "tune/tryout.py", "--data", "{pictures}", "--out", "{bucket}"),
    ],
    ids=lambda words: f"{words[0]} with its {words[words.index('{bucket}') - 1].removeprefix('--')} there",
)
def test_a_bucket_without_permission(
    refused: Callable[..., str],
    bucket: str,
    s3_server: str,
    short_notes: Path,
    short_pictures: str,
    tmp_path: Path,
    words: Sequence[str],
) -> None:
    proxy = FaultyProxy(s3_server)
    closed = bucket.replace(s3_server, proxy.address)
    proxy.faults = ["403"] * 100
    places = {"bucket": closed, "notes": short_notes, "pictures": short_pictures, "here": tmp_path}
    line = refused(*(word.format(**places) for word in words))
    proxy.close()
    assert line.startswith(f"{closed}: cannot be ")
    assert "ACCESS_DENIED" in line or "AccessDenied" in line
