"""The house rules that no linter knows: who may import whom, and what must work without TensorFlow."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from dim_jax.__main__ import COMMANDS

PACKAGE = Path(__file__).parents[1] / "dim_jax"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Folder -> folders that it may import, beside itself and those of FOR_ALL. The root holds commands, which import any.
FOR_ALL = {"cli", "runs"}
ALLOWED = {
    "cli": "",
    "runs": "cli losses models augmentation",
    "models": "",
    "losses": "",
    "augmentation": "",
    "data": "",
    "training": "",
    "steps": "losses augmentation training models",
    "weights": "models",
    "evaluation": "data models training steps weights",
    "gan": "data models training evaluation weights reporting",
    "reporting": "data evaluation training",
    "trainers": "augmentation data models losses training steps weights evaluation gan reporting",
    "prediction": "data evaluation training reporting",
    "interop": "data models training weights evaluation",
    "experiment": "data losses training evaluation gan trainers reporting",
}
PURE = ("models", "losses", "augmentation")
# A TFDS builder is a subclass of a class that TensorFlow Datasets makes only where there is TensorFlow.
NEED_TENSORFLOW = {"data/tfds_builders/ebhi.py", "data/tfds_builders/ebhi_seg.py"}


def folder(module: Path) -> str:
    """The folder below the package that a module is in; "" for a command."""
    parts = module.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else ""


def imported(module: Path) -> set[str]:
    """The full names of everything a module imports, wherever in its text."""
    names = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_imports_follow_the_direction_of_the_design():
    offenders = []
    for module in MODULES:
        home = folder(module)
        if not home:
            continue
        allowed = {home, *ALLOWED[home].split()} | (set() if home in PURE else FOR_ALL)
        used = {name.split(".")[1] for name in imported(module) if name.startswith("dim_jax.")}
        offenders += [f"{module.relative_to(PACKAGE)} imports {name}" for name in sorted(used - allowed)]
    assert not offenders, "\n".join(offenders)


@pytest.mark.parametrize("package", ["tensorflow", "tensorflow_datasets", "clu", "absl", "matplotlib"])
def test_heavy_packages_are_known_to_one_place_each(package):
    users = {
        str(module.relative_to(PACKAGE))
        for module in MODULES
        if any(name.split(".")[0] == package for name in imported(module))
    }
    assert (
        users
        <= {
            "tensorflow": {"data/tf_pipeline.py", "data/tfds_source.py"},
            "clu": {"training/writers.py"},
            "absl": {"runs/config_flags.py"},
            "tensorflow_datasets": {"data/tfds_source.py", "data/tfds_builders/biopsies.py", *NEED_TENSORFLOW},
            "matplotlib": {"reporting/figures.py"},
        }[package]
    )


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
    assert users == ["cli/command_line.py"]


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


@pytest.mark.parametrize("command", COMMANDS)
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
