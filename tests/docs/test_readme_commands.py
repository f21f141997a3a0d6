"""Every command of the README is run, in order, on synthetic tissue by `:test` variants, or listed with a reason."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from dim_jax.data import phantom

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"(?:(?<=\n)|^)\n((?:    .*\n|\n(?=    ))+)")
COMMAND = re.compile(r"python3? |pip |bash |mkdocs ")
# Beginnings of commands that are not run here, and why.
NOT_RUN = {
    "python3 -m venv": "makes an environment; a fresh one is tested by launch/environment.sh",
    "pip install": "installs packages",
    "bash launch/demo.sh": "minutes; tests/experiment/test_demo.py",
    "bash launch/test.sh": "runs all tests",
    "mkdocs serve": "serves until it is stopped",
}
# What is run in place of a part of a command, so that it takes seconds.
REPLACED = {
    "classifier.py:finetune": "classifier.py:test",
    "experiment.py:recipe": "experiment.py:recipe,test",
}


def commands(text: str) -> list[str]:
    """The commands in the indented blocks and in the running text of a page, in order, without comments."""
    found = []
    for block in re.finditer(BLOCK.pattern + r"|`((?:python|bash|pip) [^`]*)`", text):
        lines = re.sub(r"\\\n\s*", " ", re.sub(r"(?m)^    ", "", block[1] or block[2])).splitlines()
        parts = [part.strip() for line in lines for part in line.partition(" #")[0].split("&&")]
        found += [part for part in parts if COMMAND.match(part)]
    return found


def reason(command: str) -> str:
    """Why a command is not run, or ""."""
    return next((why for start, why in NOT_RUN.items() if command.startswith(start)), "")


README = commands((ROOT / "README.md").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the names that the README uses: images by class, named by case, and new images."""
    folder = tmp_path_factory.mktemp("newcomer")
    (folder / "configs").symlink_to(ROOT / "configs")
    for number, image in enumerate(phantom.plan(0.03)):
        path = folder / "IMAGES" / image.label / f"GTx{image.case.removeprefix('case')}-{image.field:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(phantom.draw(image, 64)).save(path)
        if number % 20 == 0:
            (folder / "NEW_IMAGES").mkdir(exist_ok=True)
            Image.fromarray(phantom.draw(image, 64, seed=1)).save(folder / "NEW_IMAGES" / f"{number}.png")
    return folder


@pytest.mark.slow
def test_the_commands_of_the_readme_run_one_after_the_other(folder: Path) -> None:
    for command in filter(lambda command: not reason(command), README):
        for part, other in REPLACED.items():
            command = re.sub(rf"{re.escape(part)}(?=\s|$)", other, command)
        words = shlex.split(command)
        assert words[0] == "python", f"{command}: neither run nor in NOT_RUN"
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, *words[1:]], cwd=folder, env=environment, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    assert (folder / "predictions" / "predictions.json").is_file()


def test_every_command_is_run_or_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """The list is that of `pytest -s`."""
    left_out = [command for command in README if reason(command)]
    run = [command for command in README if not reason(command)]
    with capsys.disabled():
        print("\nREADME, not run:", *(f"\n  {command}: {reason(command)}" for command in left_out))
    assert len(run) >= 5 and {command.split()[0] for command in run} == {"python"}
    assert all(any(command.startswith(start) for command in left_out) for start in NOT_RUN), "drop what is not named"
    assert all(any(part in command for command in run) for part in REPLACED)
