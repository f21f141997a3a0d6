"""House rules that no linter checks: which folder imports which, and what works without TensorFlow."""

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dim_jax.__main__ import COMMANDS

PACKAGE = Path(__file__).parents[1] / "dim_jax"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Folder -> folders that it imports. All but the first five may also import cli and runs; the root holds commands, which
# may import any.
ALLOWED = {
    "models": "",
    "losses": "",
    "augmentation": "",
    "cli": "",
    "runs": "cli losses models augmentation",
    "data": "",
    "training": "models weights",
    "weights": "models",
    "steps": "augmentation losses models training",
    "evaluation": "augmentation data models steps training weights zoo",
    "reporting": "data evaluation",
    "zoo": "training",
    "prediction": "data evaluation reporting training",
    "gan": "data evaluation models reporting training weights",
    "interop": "augmentation data evaluation gan models prediction reporting steps training weights zoo",
    "trainers": "augmentation data evaluation gan losses models reporting steps training weights zoo",
    "experiment": "data evaluation gan reporting trainers training zoo",
}
WITHOUT_CLI_AND_RUNS = ("models", "losses", "augmentation", "cli", "runs")
# TFDS builders are subclasses of a class that exists only with TensorFlow.
NEED_TENSORFLOW = {"data/tfds_builders/ebhi.py", "data/tfds_builders/ebhi_seg.py"}
# Commands import late, so that --help is quick.
MAY_IMPORT_LATE = {f"{name.replace('.', '/')}.py" for name in COMMANDS} | {"__init__.py"} | NEED_TENSORFLOW


def folder(module: Path) -> str:
    """The folder below the package that a module is in; "" for a command."""
    parts = module.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else ""


def imported(tree: ast.AST) -> set[str]:
    """The full names of all imports in a syntax tree, at any depth."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_the_architecture_page_names_every_command_every_module_and_no_other():
    page, picture = ((PACKAGE.parent / "docs" / f"architecture.{kind}").read_text() for kind in ("md", "svg"))
    assert all(f"`{name.removeprefix('interop.')}`" in page and name in picture for name in COMMANDS)
    rows = re.findall(r"^\| `([\w/]+)/` \| (.*) \|$", page.partition("The modules of each")[2], re.MULTILINE)
    named = {f"{home}/{name}.py" for home, names in rows for name in re.findall(r"`(\w+)`", names)}
    modules = {str(module.relative_to(PACKAGE)) for module in MODULES if module.stem != "__init__"}
    expected = {name for name in modules if "/" in name and "tfds_builders" not in name}
    missing, gone = sorted(expected - named), sorted(named - expected)
    assert not missing + gone, f"docs/architecture.md, table of modules: add {missing}, remove {gone}"


def test_imports_follow_the_direction_of_the_table_and_are_at_the_top():
    offenders, unused = [], {home: set(row.split()) for home, row in ALLOWED.items()}
    for module in MODULES:
        name, home, tree = str(module.relative_to(PACKAGE)), folder(module), ast.parse(module.read_text())
        if home:
            allowed = {home, *ALLOWED[home].split()} | (set() if home in WITHOUT_CLI_AND_RUNS else {"cli", "runs"})
            used = {path.split(".")[1] for path in imported(tree) if path.startswith("dim_jax.")}
            offenders += [f"{name} imports {other}" for other in sorted(used - allowed)]
            unused[home] -= used
        functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
        late = {path for function in functions for path in imported(function) if path.startswith("dim_jax")}
        if name not in MAY_IMPORT_LATE:
            offenders += [f"{name} imports {path} inside a function" for path in sorted(late)]
    offenders += [
        f"the table allows {home} to import {other}, which it does not" for home in unused for other in unused[home]
    ]
    try:
        graphlib.TopologicalSorter({home: row.split() for home, row in ALLOWED.items()}).prepare()
    except graphlib.CycleError as error:
        offenders.append(f"the table has a circle: {' -> '.join(error.args[1])}")
    assert not offenders, "\n".join(offenders)


def test_no_test_module_imports_another():
    offenders = [
        f"{path.name} imports {name}"
        for path in sorted(Path(__file__).parent.rglob("test_*.py"))
        for name in imported(ast.parse(path.read_text()))
        if name.startswith("test_")
    ]
    assert not offenders, "\n".join(offenders)


@pytest.mark.parametrize("package", ["tensorflow", "tensorflow_datasets", "clu", "absl", "matplotlib"])
def test_heavy_packages_are_imported_in_few_modules(package):
    users = {
        str(module.relative_to(PACKAGE))
        for module in MODULES
        if any(name.split(".")[0] == package for name in imported(ast.parse(module.read_text())))
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


def test_pmap_is_called_in_one_module():
    users = [module.name for module in MODULES if "jax.pmap" in module.read_text()]
    assert users == ["parallel.py"]


def test_print_is_called_in_one_module():
    """command_line.say escapes control characters, which names of files may contain."""
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
    """Nothing heavy is imported for --help, so that it is quick."""
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
