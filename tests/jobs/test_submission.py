"""What `mars submit` and `mars jobs` tell before a cluster is asked, and what jobs/ holds."""

import json
import runpy
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.machinery import PathFinder
from pathlib import Path
from socket import socket

import pytest
import ray

from mars_dist import cli

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "jobs").glob("*.py"))
NOT_JOBS = {"quickstart", "notes", "submit", "jobs", "show", "presets"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_job_is_the_command_of_its_name(
    script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = script.stem.replace("_", "-")
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert not ended.value.code
    assert capsys.readouterr().out.startswith(f"usage: mars {command} ")
    assert f"\nmars submit {command} " in (runpy.run_path(str(script))["__doc__"])
    # jobs/ comes first on a job's sys.path; a folder such as tune/ is no module; benchmarks/ is on the tests' alone.
    hidden = PathFinder.find_spec(script.stem, [folder for folder in sys.path if Path(folder).name != "benchmarks"])
    assert hidden is None or hidden.loader is None


def test_an_older_python_on_the_cluster_is_one_line() -> None:
    older = "import runpy, sys; sys.version_info = (3, 10, 12); sys.argv = ['encode.py']"
    code = f"{older}; runpy.run_path({str(ROOT / 'jobs' / 'encode.py')!r}, run_name='__main__')"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 2 and not ended.stdout
    [line] = ended.stderr.splitlines()
    assert line.startswith("mars: Python ") and line.endswith("is too old: 3.11 or later is needed on each node")


def test_every_command_that_a_cluster_is_for_is_a_job() -> None:
    assert {script.stem.replace("_", "-") for script in SCRIPTS} == cli.COMMANDS.keys() - NOT_JOBS


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run `mars ...` in the project's folder, which is a user's mistake; the last line, that tells it."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.chdir(ROOT)

    def run(*words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["mars", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith("mars: ")
        return line.removeprefix("mars: ")

    return run


def test_unknown_jobs_folders_and_ids_are_one_line(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert refused("submit", "train-tokeniser", "small").startswith(
        "train-tokeniser: there is no such job: choose check, enc"
    )
    assert "required" in refused("submit", "--no-wait")
    assert refused("jobs", "logs") == "mars jobs logs: needs a job's id: mars jobs list names them"
    assert refused("jobs", "list", "raysubmit_1") == "mars jobs list: takes no id"
    monkeypatch.chdir(tmp_path)
    assert refused("submit", "encode") == f"{tmp_path}/jobs: holds no jobs: run mars submit in the project's folder"


def test_an_address_that_is_none_or_that_ray_would_not_use_is_one_line(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = "--address: 10.0.0.1:6379 must be the dashboard's address, such as http://127.0.0.1:8265"
    assert refused("submit", "--address", "10.0.0.1:6379", "encode") == line
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert refused("jobs", "list").startswith("RAY_ADDRESS: auto must be the dashboard's address")
    assert refused("jobs", "list", "--address", "http://127.0.0.1:1").endswith("unset it, or name that one")


@contextmanager
def answering(status: int, body: object, of_jobs: int | None = None) -> Iterator[str]:
    """An address that gives one answer to everything, but for what it is asked of jobs."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(of_jobs or status if self.path.startswith("/api/jobs") else status)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_whoever_does_not_answer_as_this_ray_is_one_line(refused: Callable[..., str]) -> None:
    with socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
        line = refused("submit", "--address", nobody, "encode")
        assert line.startswith(f"{nobody}: does not answer as Ray's dashboard does (") and "port forwarded?" in line
    with answering(404, {}) as other:
        assert refused("jobs", "list", "--address", other).startswith(f"{other}: does not answer as Ray's dashboard")
    with answering(200, {"version": "4", "ray_version": "2.9.3", "ray_commit": ""}) as old:
        line = refused("jobs", "list", "--address", old)
        assert line.startswith(f"{old}: the cluster runs Ray 2.9.3, this project 2.60.")
    with answering(200, {"version": "4", "ray_version": ray.__version__, "ray_commit": ""}, of_jobs=500) as ill:
        assert refused("jobs", "list", "--address", ill).startswith(
            f"{ill}: refuses: Request failed with status code 500"
        )


def test_tracebacks_are_the_jobs_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.chdir(ROOT)
    with answering(404, {}) as other:
        words = ("encode", "--data", "x")
        for debug_first in (True, False):
            given = ("--debug", *words) if debug_first else (*words, "--debug")
            with pytest.raises(ValueError, match="does not answer as Ray's dashboard"):
                cli.main(["submit", "--address", other, *given])
            assert capsys.readouterr().err.splitlines()[1].endswith("jobs/encode.py --data x --debug")


def test_the_size_of_an_upload_is_that_of_rays_package(tmp_path: Path) -> None:
    """.gitignore and .rayignore count, as they do for Ray, at every depth."""
    from zipfile import ZipFile

    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import create_package

    from mars_dist.distributed.jobs import upload_of

    folder = tmp_path / "project"
    for name, size in {
        "a.py": 1000,
        "deep/b.py": 200,
        "deep/c.wav": 5000,
        "runs/d": 7000,
        "deep/data/e": 9000,
        "venv/f": 1,
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x" * size)
    (folder / ".gitignore").write_text("/runs/\n")
    (folder / ".rayignore").write_text("*.wav\n")
    (folder / "deep" / ".rayignore").write_text("data\n")
    excludes = get_runtime_env_default_excludes()
    create_package(str(folder), tmp_path / "package.zip", include_gitignore=True, excludes=excludes)
    with ZipFile(tmp_path / "package.zip") as package:
        taken = [info for info in package.infolist() if not info.is_dir()]
    upload = upload_of(folder)
    assert upload == (len(taken), sum(info.file_size for info in taken)) == (5, 1200 + 7 + 6 + 5)


def test_the_projects_own_upload_is_small() -> None:
    from mars_dist.distributed.jobs import upload_of

    assert upload_of(ROOT).num_bytes < 5 * 2**20


def test_an_upload_that_is_too_large_names_what_is(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "encode.py").touch()
    (tmp_path / "scratch").mkdir()
    with open(tmp_path / "scratch" / "huge", "wb") as file:
        file.truncate(101 * 2**20)
    monkeypatch.chdir(tmp_path)
    line = refused("submit", "encode")
    assert line == (
        f"{tmp_path}: 2 files, 101.0 MiB would be uploaded, and a cluster takes 100 MiB: name what it does not need in "
        ".rayignore, such as scratch (101.0 MiB)"
    )
