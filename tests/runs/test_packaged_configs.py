"""Bundled configurations and all subpackages are part of the installed package."""

import configparser
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dim_jax.runs import config_flags

ROOT = Path(__file__).parents[2]


def options():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser["options"]


def test_every_folder_of_the_package_is_listed():
    folders = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "dim_jax").rglob("__init__.py")}
    modules = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "dim_jax").rglob("*.py")}
    assert modules == folders
    assert options()["packages"].split() == sorted(folders | {"dim_jax.configs"})
    assert options()["package_dir"].split("=")[0].strip() == "dim_jax.configs"


def test_the_package_has_one_copy_of_the_configurations():
    assert config_flags.packaged_configs() == ROOT / "configs"
    assert not (ROOT / "dim_jax" / "configs").exists()


def test_a_bare_name_is_a_file_before_it_is_a_ready_configuration(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config_flags.load_file("classifier:small") == config_flags.load_file(f"{ROOT}/configs/classifier.py:small")
    Path("classifier").mkdir()
    assert config_flags.load_file("classifier").trainer == "classifier"
    with pytest.raises(FileNotFoundError, match="there is no file 'clasifier'; the ready ones are classifier, "):
        config_flags.load_file("clasifier")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        config_flags.load_file("../classifier")


@pytest.mark.slow
def test_a_wheel_has_the_configurations_and_the_templates(tmp_path):
    for folder in ("dim_jax", "configs"):
        shutil.copytree(ROOT / folder, tmp_path / "source" / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, tmp_path / "source")
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", f"--wheel-dir={tmp_path}"]
    subprocess.run([*build, str(tmp_path / "source")], check=True, capture_output=True, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run([sys.executable, "-m", "zipfile", "-e", str(wheel), str(tmp_path / "site")], check=True)
    code = "from dim_jax.runs import config_flags as f; print(f.packaged_configs(), f.load_file('gan:test').trainer)"
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(tmp_path / "site" / "dim_jax" / "configs"), "gan"]
    assert list((tmp_path / "site" / "dim_jax" / "reporting" / "templates").glob("*.html"))
