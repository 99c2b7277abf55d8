"""What a sweep leaves in its folder: a table, a page, the best setting's TOML, TensorBoard's HParams, all figures."""

from pathlib import Path
from tempfile import TemporaryDirectory

from tensorboardX import SummaryWriter

from mars_dist.progress import Say
from mars_dist.serialize import as_json
from mars_dist.sweeps.page import page
from mars_dist.sweeps.records import Records
from mars_dist.sweeps.results import as_toml, rank, table
from mars_dist.sweeps.study import Study
from mars_dist.sweeps.sweep import named

TABLE, FIGURES, PAGE, BEST, TENSORBOARD = "table.md", "results.json", "sweep.html", "best.toml", "tensorboard"


def conclude(study: Study, records: Records, say: Say) -> str:
    """Into the sweep's folder; returns the table."""
    ranked, home = rank(study, records), study.home
    text = table(study, ranked)
    home.write(TABLE, f"{text}\n".encode())
    home.write(FIGURES, as_json(list(records)))
    home.write(PAGE, page(study, ranked).encode())
    write_hparams(study, records)
    if ranked and ranked[0].finished:
        home.write(BEST, as_toml(study, ranked[0].choice).encode())
        say(f"{home.link(BEST)}: {named(ranked[0].choice)}")
    say(home.link(PAGE))
    return text


def write_hparams(study: Study, records: Records) -> None:
    """A run of TensorBoard for each trial that came to its end: what was chosen, and what was measured."""
    if TENSORBOARD in study.home.list():
        study.home.delete_folder(TENSORBOARD)
    with TemporaryDirectory() as scratch:
        with SummaryWriter(scratch) as writer:
            for record in records:
                if record.status == "finished":
                    of_trial = {**record.trial.choice, "seed": record.trial.seed}
                    writer.add_hparams(of_trial, {**record.score, **record.facts}, name=record.trial.name)
        for file in Path(scratch).glob("*/*"):
            study.home.sub(TENSORBOARD).sub(file.parent.name).send(file)
