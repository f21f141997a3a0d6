"""Every input of the corpus is converted, or refused with one line that names the problem, the place and the remedy."""

import hashlib
import importlib
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from hostile_inputs import CORPUS, Case, World, odd_images, write_pictures
from published_weights import small_state_dict, write_gan
from torch_pickles import write_state_dict

from dim_jax.cli import command_line
from dim_jax.data.dataset import open_dataset
from dim_jax.data.preparation import prepare_dataset
from dim_jax.gan import pool_writer
from dim_jax.interop import convert

ROOT = Path(__file__).parents[1]
OUTCOMES = defaultdict(Counter)  # group -> (command, outcome) -> number of inputs
SECONDS = 60  # time limit for one input on a busy machine; reading a pipe or a bomb would never end


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    for number, name in enumerate(("normal", "polyp")):
        write_pictures(root / "slides" / name, 6, 10 * number)
    data = prepare_dataset("phantom", root / "data", image_size=32, scale=0.03)
    dataset = open_dataset(data)
    weights, pair = write_state_dict(root / "a.pth", small_state_dict()), write_gan(root / "all_1.pth")
    classes = ",".join(dataset.classes)
    run = [str(weights), f"--out={root / 'classifier'}", f"--data={data}", f"--classes={classes}", "--image-size=32"]
    assert command_line.run(convert.main, run) == 0
    assert command_line.run(convert.main, [str(pair), f"--out={root / 'gan'}", f"--data={data}", "--label=polyp"]) == 0
    origin = {"workdir": "runs/gan", "checkpoint_step": 5, "model_sha256": "ab" * 32}
    pixels = [noise_image(seed) for seed in range(2)]
    writer = pool_writer.PoolWriter(root / "pool", "polyp", split_sha256=dataset.split_sha256, **origin)
    writer.list(writer.write(pixels, range(2)))
    return World(
        slides=root / "slides",
        data=data,
        classifier=root / "classifier",
        gan=root / "gan",
        pool=root / "pool",
        config=ROOT / "configs" / "classifier.py",
    )


def noise_image(seed, side=32):
    import numpy as np

    return np.random.default_rng(seed).integers(0, 256, (side, side, 3)).astype(np.uint8)


def snapshot(folder):
    """Returns type and digest of everything below a folder, without following or opening irregular files."""
    entries = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        value = os.readlink(path) if path.is_symlink() else None
        if stat.S_ISREG(status.st_mode):
            is_small = status.st_size < 2**26
            value = hashlib.sha256(path.read_bytes()).hexdigest() if is_small else status.st_size
        entries[os.fsencode(path.relative_to(folder))] = (stat.S_IFMT(status.st_mode), value)
    return entries


def run_case(case: Case) -> int:
    """Runs the command of a case within the time limit and returns its exit code."""

    def too_long(*_):
        raise AssertionError(f"{case.command} takes more than {SECONDS} s")

    main = importlib.import_module(f"dim_jax.{case.command}").main
    sys.modules.pop("config_config", None)  # config_flags keeps the first configuration file that a process loads
    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(SECONDS)
    try:
        return command_line.run(main, list(case.arguments))
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("name", CORPUS)
def test_odd_input_is_converted_or_refused_in_one_line(name, world, tmp_path, monkeypatch, capfd):
    folder = tmp_path / "in"
    folder.mkdir()
    case = CORPUS[name][1](folder, world)
    monkeypatch.chdir(tmp_path)
    before = snapshot(tmp_path)
    capfd.readouterr()
    code = run_case(case)
    out, err = capfd.readouterr()
    assert not set(out + err) & set("\x00\x07\x1b\x7f\x9b"), "a control character reached the terminal"
    OUTCOMES[CORPUS[name][0]][case.command, "refused" if case.words else "converted"] += 1
    if not case.words:
        assert code == 0, err
        case.check()
        return
    lines = err.strip().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert code == 2 and errors == lines[-1:], (code, err)
    assert len(errors[0]) < 2500
    for word in case.words:
        assert word in errors[0], errors[0]
    assert snapshot(tmp_path) == before


def test_bombs_are_not_decoded(world, tmp_path):
    """Peak memory of a process that prepares all refused images."""
    slides = shutil.copytree(world.slides, tmp_path / "slides")
    for name, (file, make, expected, _) in odd_images.IMAGES.items():
        if expected is None:
            (slides / "normal" / f"{name}{Path(file).suffix}").write_bytes(make())
    code = (
        "import resource, sys\n"
        "from dim_jax import prepare; from dim_jax.cli import command_line\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        f"arguments = ['--image-size=16', '--source={world.slides}', '--out={tmp_path / 'first'}']\n"
        "assert command_line.run(prepare.main, arguments) == 0\n"
        "before = peak()\n"
        f"arguments = ['--image-size=16', '--source={slides}', '--out={tmp_path / 'second'}']\n"
        "assert command_line.run(prepare.main, arguments) == 0\n"
        "print('MiB', peak() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) < 200, done.stdout  # the largest bomb would take 40 GB


def test_the_corpus_has_at_least_60_inputs():
    """Prints the table of docs/reliability.md; run the whole file with `-s` to see it."""
    assert len(CORPUS) >= 60
    for group, counts in OUTCOMES.items():
        outcomes = (f"{command} {number} {outcome}" for (command, outcome), number in sorted(counts.items()))
        print(f"{group}: {sum(counts.values())} ({', '.join(outcomes)})")
