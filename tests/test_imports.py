"""The import rules that keep Ray out of the training code and torch out of the configuration."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mars_dist.dataset import write_shard
from mars_dist.storage import Folder

PACKAGE = Path(__file__).parents[1] / "mars_dist"
FILES = sorted(PACKAGE.rglob("*.py"))
LIGHT = ("__init__", "config", "scales", "serialize", "presets")


def test_the_readme_tells_of_each_module() -> None:
    told = (PACKAGE.parent / "README.md").read_text().partition("## How it is built")[2]
    modules = {path.name for path in PACKAGE.iterdir() if path.suffix == ".py" and not path.name.startswith("_")}
    folders = {f"{file.parent.name}/" for file in PACKAGE.glob("*/__init__.py")}
    assert not {name for name in modules | folders if name not in told.split()}


def layer(module: str) -> str:
    """cli (all that a command is made of), distributed, training (and what plans it), or core for all the rest."""
    part = module.split(".")[1] if "." in module else ""
    if part in (
        "__main__",
        "check",
        "cli",
        "commands",
        "launch",
        "page",
        "pipeline",
        "preset_table",
        "quickstart",
        "submission",
    ):
        return "cli"
    if part in ("costs", "sweeps"):
        return "training"
    return part if part in ("distributed", "training") else "core"


MAY_NOT_IMPORT = {
    "core": {"training", "distributed", "cli"},
    "training": {"distributed", "cli"},
    "distributed": {"cli"},
    "cli": set(),
}


def imports(file: Path) -> Iterator[str]:
    """The modules a file imports anywhere, in functions too; `from a import b` counts as a.b."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts)


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_arrows_point_one_way(file: Path) -> None:
    mine = layer(module_of(file))
    for name in imports(file):
        root = name.split(".")[0]
        assert root != "ray" or mine == "distributed", f"{module_of(file)} imports {name}, distributed/ alone may"
        assert root != "mars_dist" or layer(name) not in MAY_NOT_IMPORT[mine], f"{module_of(file)} imports {name}"


@pytest.mark.parametrize("part", LIGHT)
def test_configuration_names_neither_torch_nor_ray(part: str) -> None:
    files = [file for file in FILES if module_of(file).split(".")[1] == part]
    assert files, "it is called otherwise by now"
    for file in files:
        assert not {name.split(".")[0] for name in imports(file)} & {"torch", "torchaudio", "ray"}, module_of(file)


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_models_know_nothing_of_parallelism(file: Path) -> None:
    of_parallelism = [name for name in imports(file) if name.startswith("torch.distributed")]
    assert not of_parallelism or layer(module_of(file)) != "core"
    assert not any(name.endswith("fully_shard") for name in of_parallelism) or file.stem == "sharding"


def loaded_by(statement: str) -> set[str]:
    """The top-level packages in sys.modules after a statement, in a fresh interpreter."""
    code = f"{statement}\nimport sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize("module", ["mars_dist", "mars_dist.config", "mars_dist.presets", "mars_dist.cli"])
def test_configuration_and_help_load_nothing_large(module: str) -> None:
    assert not loaded_by(f"import {module}") & {"torch", "ray", "pyarrow", "pandas", "numpy"}


def test_the_package_alone_loads_nothing() -> None:
    assert not loaded_by("import mars_dist") & {"numpy", "torch", "ray"}


def test_reading_rows_waits_for_no_pandas(tmp_path: Path) -> None:
    write_shard(Folder.open(tmp_path), "a.parquet", {"pitch": np.arange(3), "note_str": np.array(["a", "b", "c"])}, {})
    table = f"pq.ParquetFile({str(tmp_path / 'a.parquet')!r}).read()"
    statement = f"import pyarrow.parquet as pq; from mars_dist.dataset import from_table; from_table({table})"
    assert "pandas" not in loaded_by(statement)


@pytest.mark.parametrize(
    "build", ["Tokenizer(tokenizer, pictures)", "Autoregressor(network, tokenizer, {'pitch': 128})"]
)
def test_a_model_is_loaded_without_torchs_compiler(build: str, tmp_path: Path) -> None:
    """torch._dynamo and what it needs take half as long again as torch: a second of every sampling and evaluation."""
    statement = f"""
from safetensors.torch import save_file
from mars_dist.autoregressor import Autoregressor
from mars_dist.presets import PRESETS
from mars_dist.tokenizer import Tokenizer
from mars_dist.weights import build_with
debug = PRESETS["debug"]
pictures, tokenizer, network = debug.tokenizer.spectrogram, debug.tokenizer.tokenizer, debug.autoregressor.autoregressor
build, path = lambda: {build}, {str(tmp_path / "it.safetensors")!r}
save_file(build().state_dict(), path)
build_with(build, path)
import sys
assert not {{"torch._dynamo", "sympy"}} & sys.modules.keys()"""
    assert "torch" in loaded_by(statement)


def test_the_training_code_loads_no_ray() -> None:
    core = [module_of(file) for file in FILES if layer(module_of(file)) in ("core", "training")]
    modules = ", ".join(name.removesuffix(".__init__") for name in core)
    assert "ray" not in loaded_by(f"import {modules}")
