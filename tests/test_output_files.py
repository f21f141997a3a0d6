"""Outputs of commands: killed at any rename, the same command completes them; two calls at once leave those of one."""

import hashlib
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from untrained_runs import classifier_run

from dim_jax import ensemble, evaluate, export, label_issues, select
from dim_jax.cli import command_line
from dim_jax.data.dataset import open_dataset
from dim_jax.evaluation.calibration import probabilities
from dim_jax.evaluation.ensembles import open_classifier
from dim_jax.gan import pool_selection, pool_writer
from dim_jax.interop import program_exports
from dim_jax.runs import files

SELECT = ("--features=classifier", "--no-diagnosis", "--least-probability=0", "--distance-slack=99")


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """Two runs of other weights on the same data, with stored predictions as if they were evaluated."""
    folder, dataset = tmp_path_factory.mktemp("runs"), open_dataset(data)
    for seed, name in enumerate("ab"):
        classifier_run(folder / name, data, "--config.model.stages=((16, 24),)", seed=seed)
        for split in ("val", "test"):
            rows, place = dataset.rows(split), folder / name / "eval" / split
            logits = np.random.default_rng(seed).normal(size=(len(rows), len(dataset.classes))).astype(np.float32)
            files.write_json(place / "metrics.json", {"checkpoint_step": seed + 1, "views": 1})
            np.savez(place / "predictions.npz", index=rows, label=dataset.labels[rows], logits=logits)
    return folder


@pytest.fixture(scope="module")
def pool(data, tmp_path_factory):
    dataset, root = open_dataset(data), tmp_path_factory.mktemp("pools") / "pool"
    origin = {"workdir": "runs/gan", "checkpoint_step": 5, "model_sha256": "ab" * 32, "resize": "squash"}
    origin |= {"discriminator_features": (), "split_sha256": dataset.split_sha256}
    pixels = [np.random.default_rng(seed).integers(0, 256, (32, 32, 3)).astype(np.uint8) for seed in range(8)]
    writer = pool_writer.PoolWriter(root, "adenocarcinoma", **origin)
    writer.list(writer.write(pixels, range(8)))
    return root


def call(command, *arguments):
    assert command_line.run(command.main, [str(argument) for argument in arguments]) == 0


@pytest.fixture
def killed_states(tmp_path, monkeypatch):
    """A function that calls a function, and returns copies of a folder as it is on disk before each rename in it."""
    replace = os.replace

    def record(folder, function):
        copies = []

        def copied(source, target, **options):
            if folder in [target, *getattr(target, "parents", ())]:
                copies.append(tmp_path / "states" / str(len(copies)))
                shutil.copytree(folder, copies[-1])
            return replace(source, target, **options)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", copied)
            function()
        return copies

    return record


def contents(folder):
    """Digests of all files below a folder, temporaries too; none for those with times in them."""
    return {
        path.relative_to(folder).as_posix(): ""
        if path.name in ("metrics.json", "environment.json", "card.md", "card.json", ".lock")
        else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def completes_from_every_state(folder, command, killed_states, chosen=slice(None)):
    """Calls a command, and again from each state in which it can have been killed: the same files at the end.

    Args:
      folder: its output folder, or the parent of its output file.
      command: a function that calls it.
      killed_states: the fixture.
      chosen: of the states.
    """
    shutil.rmtree(folder.parent / "states", ignore_errors=True)
    copies = killed_states(folder, command)
    expected = contents(folder)
    assert len(copies) > 1 and not any(name.endswith((".tmp", ".turn.lock")) for name in expected)
    for state in copies[chosen]:
        shutil.rmtree(folder)
        shutil.copytree(state, folder)
        command()
        left = {name for name in contents(folder) if name.endswith((".tmp", ".lock"))} - {*expected}
        assert {name: digest for name, digest in contents(folder).items() if name not in left} == expected
    return copies


def weights_of(run, out):
    return lambda: call(export, run, "--to=safetensors", f"--out={out}")


def test_an_export_is_completed(runs, tmp_path, killed_states):
    """The first one, and one in place of that of another run."""
    out = tmp_path / "out" / "model.safetensors"
    completes_from_every_state(out.parent, weights_of(runs / "a", out), killed_states)
    completes_from_every_state(out.parent, weights_of(runs / "b", out), killed_states)
    record = files.read_json(f"{out}.json")
    assert record["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest() and "next_sha256" not in record


def test_a_program_is_completed(runs, tmp_path, killed_states, monkeypatch):
    """With a text in the place of a program."""
    comparison, empty = SimpleNamespace(inputs=[[1]], source="images"), SimpleNamespace(inputs=(), outputs=())
    monkeypatch.setitem(program_exports.TARGETS, "stablehlo", SimpleNamespace(serialize=lambda program: program.text))
    monkeypatch.setattr(program_exports, "_compare", lambda *_: {"probabilities": 0.0})
    monkeypatch.setattr(program_exports.program_cards, "program_card", lambda *_: {})
    monkeypatch.setattr(program_exports.cards, "write", lambda *_: True)
    monkeypatch.setattr(
        program_exports,
        "_classifier",
        lambda run, *_: (
            SimpleNamespace(**vars(empty), text=str(run).encode()), comparison, {"network": "x", "checkpoint_step": 1}
        ),
    )  # fmt: skip
    out = tmp_path / "out" / "model.stablehlo"
    program = lambda run: lambda: call(export, runs / run, "--to=stablehlo", f"--out={out}")  # noqa: E731
    completes_from_every_state(out.parent, program("a"), killed_states)
    states = completes_from_every_state(out.parent, program("b"), killed_states)
    # A file of the user's in the place of an interrupted export is kept.
    shutil.rmtree(out.parent)
    shutil.copytree(states[0], out.parent)
    out.write_bytes(b"mine")
    assert command_line.run(export.main, [str(runs / "a"), "--to=stablehlo", f"--out={out}"]) == 2
    assert out.read_bytes() == b"mine"


def test_a_failed_export_leaves_the_list_as_it_was(runs, tmp_path, monkeypatch):
    out = tmp_path / "out" / "model.safetensors"

    write = files.write_bytes

    def full(path, encoded):
        if Path(path) == out:
            raise OSError(28, "No space left on device", str(path))
        return write(path, encoded)

    for before in (False, True):
        if before:
            weights_of(runs / "a", out)()
        earlier = contents(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(files, "write_bytes", full)
            assert command_line.run(export.main, [str(runs / "b"), "--to=safetensors", f"--out={out}"]) == 2
        assert contents(tmp_path) == earlier


def test_an_ensemble_is_completed_and_never_has_results_of_other_members(runs, tmp_path, killed_states):
    out = tmp_path / "out"
    completes_from_every_state(out, lambda: call(ensemble, runs / "a", f"--out={out}"), killed_states, slice(2))
    logits = np.load(out / "eval" / "val" / "predictions.npz")["logits"]
    to_other = lambda: call(ensemble, runs / "b", f"--out={out}")  # noqa: E731
    for state in completes_from_every_state(out, to_other, killed_states, slice(0, None, 3)):
        members, results = files.read_json(state / "config.json")["members"], state / "eval" / "val" / "predictions.npz"
        of_first = results.exists() and np.array_equal(np.load(results)["logits"], logits)
        assert len(members) == 0 or of_first <= members[0].endswith("/a"), (state, members)
        if not members:
            with pytest.raises(ValueError, match=r"make it again with python -m dim_jax\.ensemble"):
                open_classifier(state)


def test_label_issues_are_completed(runs, tmp_path, killed_states):
    out = tmp_path / "out"
    completes_from_every_state(out, lambda: call(label_issues, runs / "a", f"--out={out}"), killed_states)
    completes_from_every_state(out, lambda: call(label_issues, runs / "b", f"--out={out}"), killed_states)


@pytest.fixture
def same_features(monkeypatch):
    """Computes the features of the pool once."""
    extract, cache = pool_selection.extract_features, {}

    def cached(*arguments):
        with lock:
            return cache.setdefault("features", cache.get("features") or extract(*arguments))

    lock = threading.Lock()
    monkeypatch.setattr(pool_selection, "extract_features", cached)


def selection(pool, data, runs, out, keep):
    call(
        select, f"--pool={pool}", f"--data={data}", f"--classifier={runs / 'a'}", f"--out={out}", f"--keep={keep}",
        *SELECT,
    )  # fmt: skip


@pytest.mark.usefixtures("same_features")
def test_a_selection_is_completed(pool, data, runs, tmp_path, killed_states):
    out = tmp_path / "out"
    completes_from_every_state(out, lambda: selection(pool, data, runs, out, 3), killed_states, slice(0, None, 3))


@pytest.fixture
def at_once(monkeypatch):
    """A function that runs functions at the same time, with slow renames so that one begins while another writes."""
    replace = os.replace

    def slow(source, target, **options):
        time.sleep(0.05)
        return replace(source, target, **options)

    def run(*functions):
        with monkeypatch.context() as patch, ThreadPoolExecutor(len(functions)) as pool:
            patch.setattr(os, "replace", slow)
            for done in [pool.submit(function) for function in functions]:
                done.result()

    return run


def no_leftovers(folder):
    assert not [path for path in folder.rglob(".*") if path.name != ".lock"]


def test_two_exports_at_once_leave_one_with_its_record(runs, tmp_path, at_once):
    out = tmp_path / "model.safetensors"
    at_once(weights_of(runs / "a", out), weights_of(runs / "b", out))
    assert files.read_json(f"{out}.json")["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    no_leftovers(tmp_path)


def test_two_evaluations_at_once_leave_the_files_of_one(runs, tmp_path, at_once):
    run = tmp_path / "all"
    call(ensemble, runs / "a", f"--out={run}")
    criteria = ("g_mean", "accuracy")
    at_once(*(lambda by=by: call(evaluate, f"--workdir={run}", "--split=val", f"--choose-by={by}") for by in criteria))
    stored, metrics = (files.read_json(run / "eval" / "val" / f"{name}.json") for name in ("adjustment", "metrics"))
    assert metrics["adjusted"]["adjustment"]["criterion"] == stored["criterion"]
    no_leftovers(tmp_path)


def test_two_ensembles_at_once_leave_one_with_its_evaluation(runs, tmp_path, at_once):
    out = tmp_path / "all"
    at_once(*(lambda name=name: call(ensemble, runs / name, f"--out={out}") for name in "ab"))
    (member,) = open_classifier(out).members
    for split in ("val", "test"):
        logits = [np.load(run / "eval" / split / "predictions.npz")["logits"] for run in (out, member.workdir)]
        np.testing.assert_array_equal(*logits)
    no_leftovers(tmp_path)


@pytest.mark.usefixtures("same_features")
def test_two_selections_at_once_leave_the_files_of_one(pool, data, runs, tmp_path, at_once):
    out = tmp_path / "out"
    at_once(*(lambda keep=keep: selection(pool, data, runs, out, keep) for keep in (2, 4)))
    selected, rejected = (files.read_json(out / name) for name in ("selected.json", "rejected.json"))
    assert selected["keep"] == rejected["keep"] and len(selected["images"]) + len(rejected["rejected"]) == 8
    no_leftovers(tmp_path)


def test_two_calls_of_label_issues_at_once_leave_the_files_of_one(runs, tmp_path, at_once):
    out = tmp_path / "out"
    at_once(*(lambda name=name: call(label_issues, runs / name, f"--out={out}") for name in "ab"))
    logits = [np.load(runs / name / "eval" / "test" / "predictions.npz")["logits"] for name in "ab"]
    assert not np.array_equal(probabilities(logits[0]), probabilities(logits[1]))
    lines = len((out / "label_issues.csv").read_text("utf-8-sig").splitlines()) - 1
    assert f"{lines} of {len(logits[0])}" in (out / "label_issues.html").read_text("utf-8")
    no_leftovers(tmp_path)
