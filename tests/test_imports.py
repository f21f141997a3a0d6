"""The house rules that no linter knows: who may import whom, and what must work without TensorFlow."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "dim_jax"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Room -> rooms it may import. Everything may import what FOR_ALL names; a folder stands for all its modules.
PURE = {"jax only"}
ALLOWED = {
    "files": set(), "command_line": set(), "configuration": set(), "progress": set(), "writers": set(),
    "added_fields": set(), "workdir": {"added_fields"},
    "checkpoints": set(), "compilation": set(), "parallel": set(), "joining": {"parallel"}, "initial_weights": set(),
    "losses": {"losses"}, "augment": set(), "metrics": set(),
    "optimizers": set(), "state": set(), "models": {"models", "scales"}, "explain": set(),
    "scales": set(), "diff_augment": set(), "gan_losses": set(), "transition": set(), "feature_sets": set(),
    "generative_metrics": {"feature_sets"}, "statistics": set(),
    "selection": {"generative_metrics"},
    "candidates": {"pools", "parallel", "evaluate", "data", "checkpoints", "loop", "interop", "models", "progress"},
    "select": {"candidates", "compilation", "pools", "selection", "generative_metrics", "reporting"},
    "pools": {"data"},
    "steps": {"losses", "augment", "state", "optimizers", "explain", "steps", "gan_losses", "diff_augment", "scales"},
    "synthesis": {"models", "checkpoints", "data", "evaluate", "loop", "state", "transition"},
    "sample_sheets": {"parallel", "scales", "state", "synthesis"},
    "generate": {"compilation", "parallel", "joining", "synthesis", "pools", "progress"},
    "data": {"data", "progress"}, "prepare": {"data", "progress"},
    "interop": {"models", "interop", "state", "optimizers", "checkpoints", "loop", "data", "workdir", "classifier_run",
                "train"},
    "loop": {"parallel", "checkpoints", "writers", "progress", "instruments"}, "instruments": {"parallel"},
    "stopping": set(),
    "evaluate": {"compilation", "models", "metrics", "explain", "data", "parallel", "joining", "checkpoints", "state",
                 "steps", "loop", "writers", "interop"},
    "reporting": {"reporting", "data", "writers"}, "report": {"reporting"},
    "trainers": {"models", "losses", "gan_losses", "metrics", "optimizers", "state", "steps", "data", "parallel",
                 "loop", "workdir", "evaluate", "synthesis", "sample_sheets", "interop", "prepare", "report",
                 "reporting", "progress", "experiment", "trainers", "transition", "initial_weights", "compilation"},
    "experiment": {"added_fields", "compilation", "data", "generate", "losses", "metrics", "parallel", "pools",
                   "prepare", "reporting", "select", "selection", "statistics", "trainers", "workdir", "experiment"},
    "train": {"added_fields", "joining", "parallel", "trainers"}, "calibration": set(),
    "classifier_run": {"checkpoints", "data", "loop", "models"},
    "predict": {"calibration", "compilation", "classifier_run", "data", "evaluate", "parallel", "reporting"},
}  # fmt: skip
FOR_ALL = {"files", "command_line", "configuration", "stopping"}
# A TFDS builder is a subclass of a class that TensorFlow Datasets makes only where there is TensorFlow.
NEED_TENSORFLOW = {"data/tfds_builders/ebhi.py", "data/tfds_builders/ebhi_seg.py"}


def room(module: Path) -> str:
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(module: Path) -> set[str]:
    """The full names of everything a module imports, wherever in its text."""
    names = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_follow_the_direction_of_the_design(module):
    if module == PACKAGE / "__init__.py":
        return
    used = {name.split(".")[1] for name in imported(module) if name.startswith("dim_jax.")}
    assert used - FOR_ALL <= ALLOWED[room(module)]


@pytest.mark.parametrize("package", ["tensorflow", "tensorflow_datasets", "clu", "absl", "matplotlib"])
def test_heavy_packages_are_known_to_one_place_each(package):
    users = {
        str(module.relative_to(PACKAGE))
        for module in MODULES
        if any(name.split(".")[0] == package for name in imported(module))
    }
    assert users <= {
        "tensorflow": {"data/tf_pipeline.py", "data/tfds_source.py"}, "clu": {"writers.py"}, "absl": {"train.py"},
        "tensorflow_datasets": {"data/tfds_source.py", "data/tfds_builders/biopsies.py", *NEED_TENSORFLOW},
        "matplotlib": {"reporting/figures.py"},
    }[package]  # fmt: skip


def test_pmap_is_said_in_one_file():
    users = [module.name for module in MODULES if "jax.pmap" in module.read_text()]
    assert users == ["parallel.py"]


def test_print_is_said_in_one_file():
    """command_line.say keeps what commands a terminal from it, whatever names are told."""
    users = [
        str(module.relative_to(PACKAGE))
        for module in MODULES
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert users == ["command_line.py"]


def test_everything_imports_without_tensorflow():
    """All modules, in one process in which importing TensorFlow fails."""
    names = [
        ".".join(("dim_jax", *module.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        for module in MODULES
        if str(module.relative_to(PACKAGE)) not in NEED_TENSORFLOW
    ]
    code = "import sys, importlib\nsys.modules['tensorflow'] = None\n"
    code += "\n".join(f"importlib.import_module({name!r})" for name in names)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "command", ["prepare", "train", "evaluate", "generate", "select", "report", "predict", "interop.convert"]
)
def test_help_needs_no_jax_and_shows_an_example(command):
    """What makes help quick: nothing heavy is imported for it."""
    code = (
        "import sys, runpy\n"
        f"sys.argv = ['{command}', '--help']\n"
        "try:\n"
        f"    runpy.run_module('dim_jax.{command}', run_name='__main__')\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code, stop.code\n"
        "heavy = {'jax', 'tensorflow', 'flax', 'sklearn', 'matplotlib', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"python -m dim_jax.{command}" in done.stdout.split("examples:")[1]
