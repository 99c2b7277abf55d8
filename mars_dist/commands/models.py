"""Commands for what is trained: new notes, and measures."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from tyro.conf import Positional

from mars_dist.addresses import address
from mars_dist.arguments import local, make_folder, measured, parse, told
from mars_dist.progress import say


def sample(arguments: Sequence[str]) -> None:
    """Make new notes."""
    from mars_dist.conditions import WORDS
    from mars_dist.phase import DEFAULT, Phase
    from mars_dist.sampling import SamplingConfig

    @dataclass(frozen=True)
    class Sample:
        model: Positional[str]
        """Folder that mars train-ar wrote."""
        out: str = "samples"
        """Folder of the wav files, and of a JSON file that tells what each note was asked for, or given."""
        prompts: str | None = None
        """A .csv or .jsonl, local or s3://, with columns named like the options below: count notes for each row, made
        on all machines. --out, which may be s3:// too, also gets labels.csv: a source for mars preprocess."""
        count: int = 1
        pitch: int | None = None
        """MIDI, 0 to 127."""
        velocity: int | None = None
        """MIDI, 1 to 127; the nearest of 25, 50, 75, 100 and 127 counts."""
        family: str | None = None
        source: str | None = None
        instrument: str | None = None
        qualities: tuple[str, ...] = ()
        """Those that the note shall have, such as: bright percussive."""
        sampling: SamplingConfig = field(default_factory=SamplingConfig)
        phase: Phase = DEFAULT
        """How pictures become sound: Griffin-Lim, phase-gradient integration, or the two in turn."""

    command = parse(Sample, arguments, "sample")
    if command.count < 1:
        raise ValueError(f"--count: {command.count} must be at least 1")
    asked = {name: value for name in WORDS if (value := getattr(command, name)) not in (None, ())}
    model = address(command.model)
    if command.prompts:
        from mars_dist.distributed.cluster import over_gpus
        from mars_dist.lease import sole_writer
        from mars_dist.new_notes import NewNotes, make, read_prompts
        from mars_dist.storage import Folder

        wanted = read_prompts(str(address(command.prompts)), model, asked, command.count)
        folder = Folder.open(address(command.out))
        folder.require_writable()
        with sole_writer(folder, say):
            make(NewNotes(model, wanted, command.sampling, command.phase), folder, over_gpus, say)
        return
    from mars_dist.audio import write_wav
    from mars_dist.devices import own_device
    from mars_dist.memory import keep_freed_memory
    from mars_dist.model import Mars
    from mars_dist.serialize import write_json
    from mars_dist.whole import whole

    keep_freed_memory()
    out = local(command.out)
    mars = Mars.from_pretrained(model, own_device())
    command.sampling.per_scale(mars.autoregressor.schedule)  # refused before --out is made, as unknown words are next
    labels = mars.labels(command.count, **asked, sampling=command.sampling)
    make_folder(out)
    waves = mars.generate(command.count, **asked, sampling=command.sampling, phase=command.phase)
    parts = (command.instrument or command.family or command.source, command.pitch, command.velocity)
    name = "-".join(str(part) for part in parts if part is not None).replace("/", "-") or "note"
    paths = [out / f"{name}-{i:03d}.wav" for i in range(command.count)]
    for path, wave_T in zip(paths, waves, strict=True):
        with told(f"{path}: cannot be written"), whole(path) as half_written:
            write_wav(half_written, wave_T, mars.spectrogram.sample_rate)
        say(str(path))
    with told(f"{out / name}.json: cannot be written"):
        write_json(out / f"{name}.json", {path.name: label for path, label in zip(paths, labels, strict=True)})


def evaluate(arguments: Sequence[str]) -> None:
    """Measure models on held-out notes; write a page to hear."""
    from mars_dist.phase import DEFAULT, Phase
    from mars_dist.sampling import AS_ASKED, SamplingConfig

    @dataclass(frozen=True)
    class Evaluate:
        models: Positional[tuple[str, ...]]
        """Folders that mars train-ar or mars train-tokenizer wrote: one, or several side by side."""
        data: str
        """Folder that mars preprocess wrote."""
        classifier: str | None = None
        """Folder that mars train-classifier wrote. Without one, what rests on it is left out."""
        embeddings: tuple[str, ...] = ()
        """For FAD and KID: musicnn (make embeddings installs it), vggish:WEIGHTS."""
        report: str | None = None
        """The page to write, an .html, local or s3://; its figures lie beside it. Default: report.html in the first
        model's folder."""
        splits: tuple[str, ...] | None = None
        """Those that are measured. Default: valid, and test where there is one."""
        notes: int = 512
        """Notes of each split that are measured, spread evenly."""
        shown: int = 8
        """Notes of each split that the page plays."""
        sampling: SamplingConfig = AS_ASKED
        phase: Phase = DEFAULT
        """How pictures become sound: Griffin-Lim, phase-gradient integration, or the two in turn."""

    command = parse(Evaluate, arguments, "evaluate")
    if not command.models:
        raise ValueError("models: none is named: give the --out of mars train-ar, or several")
    asked = measured(command.notes, command.shown, command.splits)
    folders = [address(folder) for folder in command.models]
    if len(set(folders)) < len(folders):
        raise ValueError(f"models: {' '.join(command.models)}: one is named twice: name each once")
    from mars_dist.evaluation.judges import Judges
    from mars_dist.evaluation.lines import tokenizer_of
    from mars_dist.page import EvaluationPlan, evaluate_folders
    from mars_dist.storage import Folder

    report = address(command.report) if command.report else None
    out, file = Folder.of(report) if report else (Folder.open(folders[0]), "report.html")
    if not file.endswith(".html"):
        raise ValueError(f"--report: {command.report} must be a file whose name ends in .html")
    for folder in folders:
        tokenizer_of(folder)  # what is no model gets no page in its folder
    out.require_writable("--report")
    judges = Judges(address(command.classifier) if command.classifier else None, command.embeddings)
    data = str(address(command.data))
    plan = EvaluationPlan(folders, data, asked, command.shown, judges, command.sampling, command.phase)
    print(evaluate_folders(plan, out, file, say))
