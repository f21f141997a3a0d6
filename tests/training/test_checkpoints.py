"""Checkpoints: atomic writes, detection of damage, and bit-exact restoration."""

import logging
import re
import shutil
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dim_jax.runs import files
from dim_jax.training import checkpoints
from dim_jax.training.state import TrainState

OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))


def make_state(seed=0, width=3, bias=True):
    """A state after an update, with values that rounding would change."""
    rng = np.random.default_rng(seed)
    params = {"layer": {"kernel": rng.normal(size=(5, width)).astype(np.float32)}, "scale": np.float32(rng.normal())}
    if bias:
        params["layer"]["bias"] = np.array([np.pi, -0.0, 1e-42], np.float32)[:width]
    opt_state = OPTIMIZER.init(params)
    _, opt_state = OPTIMIZER.update(jax.tree.map(lambda x: x * 1e-3, params), opt_state, params)
    batch_stats = {"norm": {"mean": jnp.asarray(rng.normal(size=4), jnp.bfloat16)}}
    return TrainState(jnp.int32(seed), params, batch_stats, jax.device_get(opt_state))


def assert_bits_equal(restored, expected):
    assert jax.tree.structure(restored) == jax.tree.structure(expected)
    for ours, theirs in zip(jax.tree.leaves(restored), jax.tree.leaves(expected), strict=True):
        theirs = np.asarray(theirs)
        assert isinstance(ours, np.ndarray) and ours.dtype == theirs.dtype and ours.shape == theirs.shape
        assert ours.tobytes() == theirs.tobytes()


def contents(folder):
    """Bytes and modification time of every file."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    checkpoints.save(folder, 4, make_state(4), {"best": 0.25}, keep=2)
    checkpoints.save(folder, 8, make_state(8), {"best": 0.5}, keep=2)
    return folder


@pytest.fixture
def folder(two_checkpoints, tmp_path):
    """Undamaged checkpoints of steps 4 and 8."""
    return shutil.copytree(two_checkpoints, tmp_path / "checkpoints")


def test_a_state_is_restored_bit_for_bit_into_its_own_structure(folder):
    restored = checkpoints.restore(folder, make_state(1))
    assert (restored.step, restored.notes) == (8, {"best": 0.5})
    assert isinstance(restored.state, TrainState)
    assert type(restored.state.opt_state[1][0]) is optax.ScaleByAdamState
    assert_bits_equal(restored.state, make_state(8))


def test_a_template_may_be_shapes_on_a_device_or_in_numpy(folder):
    on_device = jax.device_put(make_state(1))
    assert_bits_equal(checkpoints.restore(folder, on_device).state, make_state(8))


def test_without_a_template_nested_dicts_are_restored_bit_for_bit(folder):
    expected = make_state(8)
    restored = checkpoints.restore(folder).state
    assert set(restored) == {"step", "params", "batch_stats", "opt_state"}
    assert_bits_equal(restored["params"], expected.params)
    assert_bits_equal(restored["batch_stats"], expected.batch_stats)
    assert restored["step"] == 8
    ours, theirs = jax.tree.leaves(restored["opt_state"]), jax.tree.leaves(expected.opt_state)
    assert sorted(leaf.tobytes() for leaf in ours) == sorted(np.asarray(leaf).tobytes() for leaf in theirs)


def test_a_folder_without_checkpoints_gives_none(tmp_path):
    assert checkpoints.restore(tmp_path / "none", make_state()) is None
    (tmp_path / "notes.txt").write_text("mine")
    assert checkpoints.restore(tmp_path, make_state()) is None
    assert checkpoints.steps(tmp_path) == []


def test_the_newest_checkpoints_by_step_are_kept(tmp_path):
    for step in (2, 9, 10, 100):
        checkpoints.save(tmp_path, step, {"w": np.float32(step)}, {}, keep=3)
    assert checkpoints.steps(tmp_path) == [9, 10, 100]
    checkpoints.save(tmp_path, 101, {"w": np.float32(101)}, {}, keep=1)
    assert checkpoints.steps(tmp_path) == [101]
    assert checkpoints.restore(tmp_path).state["w"] == 101


def files_of_newest(folder):
    return sorted(path for path in (folder / "8").rglob("*") if path.is_file())


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def assert_falls_back(folder, caplog):
    with caplog.at_level(logging.WARNING):
        restored = checkpoints.restore(folder, make_state(1))
    assert restored.step == 4 and restored.notes == {"best": 0.25}
    assert_bits_equal(restored.state, make_state(4))
    assert [record.levelname for record in caplog.records if str(folder / "8") in record.getMessage()] == ["WARNING"]


def test_after_a_flipped_bit_or_a_missing_file_the_previous_checkpoint_is_used(folder, caplog):
    """For every file of the checkpoint: Orbax itself does not notice a flipped bit."""
    paths = files_of_newest(folder)
    assert {checkpoints.DIGESTS, checkpoints.NOTES} < {path.name for path in paths} and len(paths) > 4
    for path in paths:
        data = path.read_bytes()
        for damage in (flip_a_bit, lambda path: path.unlink(), lambda path: path.write_bytes(b"")):
            if data or damage is not flip_a_bit:
                damage(path)
            if path.is_file() and path.read_bytes() == data:
                continue  # a file that is empty anyway
            caplog.clear()
            assert_falls_back(folder, caplog)
            path.write_bytes(data)
    assert checkpoints.restore(folder, make_state(1)).step == 8


def test_after_an_unexpected_file_the_previous_checkpoint_is_used(folder, caplog):
    (folder / "8" / checkpoints.ARRAYS / "more").write_bytes(b"?")
    assert_falls_back(folder, caplog)


def test_after_a_truncated_copy_the_previous_checkpoint_is_used(folder, caplog):
    shutil.rmtree(folder / "8")
    (folder / "8").mkdir()
    assert_falls_back(folder, caplog)


def test_partial_checkpoints_are_ignored_and_removed_by_the_next_save(folder):
    for step in (6, 12):
        (folder / f".{step}.tmp").mkdir()
        (folder / f".{step}.tmp" / checkpoints.NOTES).write_text("{")
    restored = checkpoints.restore(folder, make_state(1))
    assert restored.step == 8
    assert_bits_equal(restored.state, make_state(8))
    checkpoints.save(folder, 12, make_state(12), {}, keep=2)
    assert sorted(path.name for path in folder.iterdir()) == ["12", "8"]


def test_if_all_checkpoints_are_damaged_restoring_fails(folder):
    for step in (4, 8):
        flip_a_bit(folder / str(step) / checkpoints.NOTES)
    with pytest.raises(ValueError, match=rf"{folder}: every checkpoint is damaged"):
        checkpoints.restore(folder, make_state(1))


@pytest.mark.parametrize("other", [{"width": 2}, {"bias": False}], ids=["another width", "a parameter less"])
def test_a_state_of_another_model_is_refused_by_name(folder, other):
    with pytest.raises(ValueError, match=rf"{folder / '8'} does not fit this model or optimizer"):
        checkpoints.restore(folder, make_state(1, **other))


def test_a_state_of_another_optimizer_is_refused_by_name(folder):
    state = make_state(1)
    other = state.replace(opt_state=optax.sgd(0.1, momentum=0.9).init(state.params))
    with pytest.raises(ValueError, match=rf"{folder / '8'} does not fit this model or optimizer"):
        checkpoints.restore(folder, other)


def test_saving_a_step_again_leaves_its_files_untouched(folder):
    before = contents(folder)
    assert checkpoints.save(folder, 8, make_state(8), {"best": 0.5}, keep=2) == folder / "8"
    assert contents(folder) == before


def test_saving_a_step_again_with_other_notes_replaces_them(folder):
    checkpoints.save(folder, 8, make_state(8), {"best": 0.75}, keep=2)
    restored = checkpoints.restore(folder, make_state(1))
    assert restored.notes == {"best": 0.75} and checkpoints.steps(folder) == [4, 8]
    assert_bits_equal(restored.state, make_state(8))


def test_a_checkpoint_that_does_not_count_displaces_none_and_is_removed_by_the_next_save(folder):
    def save(step):
        checkpoints.save(folder, step, make_state(step), {}, keep=2, counts=lambda step: step % 4 == 0)
        return checkpoints.steps(folder)

    assert save(10) == [4, 8, 10]
    assert save(11) == [4, 8, 11]
    assert save(12) == [8, 12]


def test_the_newest_undamaged_checkpoint_of_several_folders_is_restored(folder, tmp_path):
    best = tmp_path / "best"
    for step, expected in ((6, 8), (8, 8), (10, 10)):
        checkpoints.save(best, step, make_state(step), {"from": "best"}, keep=1)
        restored = checkpoints.restore(folder, make_state(1), more=[best])
        assert (restored.step, "from" in restored.notes) == (expected, step == 10)
    flip_a_bit(best / "10" / checkpoints.NOTES)
    assert checkpoints.restore(folder, make_state(1), more=[best]).step == 8


def test_saving_a_damaged_step_again_repairs_it(folder):
    flip_a_bit(folder / "8" / checkpoints.DIGESTS)
    checkpoints.save(folder, 8, make_state(8), {"best": 0.5}, keep=2)
    assert_bits_equal(checkpoints.restore(folder, make_state(1)).state, make_state(8))
    assert checkpoints.steps(folder) == [4, 8]


@pytest.mark.parametrize("keep", [1, 2])
def test_a_newer_damaged_checkpoint_does_not_displace_the_one_just_written(folder, keep):
    """A run resumed at step 4 that saves at 6 must be able to resume at 6."""
    flip_a_bit(folder / "8" / checkpoints.NOTES)
    assert checkpoints.restore(folder, make_state(1)).step == 4
    checkpoints.save(folder, 6, make_state(6), {}, keep=keep)
    assert_bits_equal(checkpoints.restore(folder, make_state(1)).state, make_state(6))
    assert checkpoints.steps(folder) == [4, 6][-keep:]


@pytest.mark.parametrize("fails_at", [1, 2])
def test_a_failed_write_leaves_the_older_checkpoints_and_no_partial_one(folder, monkeypatch, fails_at):
    before, calls, write = contents(folder), [], files.write_json

    def failing(*arguments):
        calls.append(arguments)
        if len(calls) == fails_at:
            raise OSError("no space left on device")
        return write(*arguments)

    monkeypatch.setattr(files, "write_json", failing)
    with pytest.raises(OSError, match="no space"):
        checkpoints.save(folder, 12, make_state(12), {}, keep=1)
    assert contents(folder) == before
    assert sorted(path.name for path in folder.iterdir()) == ["4", "8"]


def test_a_moved_run_directory_still_restores(folder, tmp_path):
    moved = folder.rename(tmp_path / "moved")
    assert_bits_equal(checkpoints.restore(moved, make_state(1)).state, make_state(8))


def test_a_relative_folder_is_the_same_folder(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert checkpoints.restore(folder.name, make_state(1)).step == 8
    checkpoints.save(folder.name, 12, make_state(12), {}, keep=2)
    assert checkpoints.steps(folder) == [8, 12]


TREE = {"kernel": np.arange(3, dtype=np.float32), "norm": {"mean": np.float32(2)}}
# What shells, globs, URLs and TensorStore give a meaning, beside plain characters.
ODD_CHARACTERS = st.text("[]!-{}*?\\:|<>'\"$&#%~;=@^`\n\t ab1é界", min_size=1, max_size=12)
ODD_NAMES = ODD_CHARACTERS | st.sampled_from(["fold[1]", "[a-z]x", "imported [v2]", "a\\b", "gs:", "file:", "s3:", "~"])


@hypothesis.given(st.lists(ODD_NAMES, min_size=1, max_size=2))
def test_a_checkpoint_is_restored_from_a_folder_of_any_name(tmp_path_factory, names):
    folder = tmp_path_factory.mktemp("names", numbered=True).joinpath(*names)
    checkpoints.check_folder(folder)
    checkpoints.save(folder, 1, TREE, {}, keep=1)
    assert_bits_equal(checkpoints.restore(folder, TREE).state, TREE)
    assert_bits_equal(checkpoints.restore(folder).state, TREE)
    assert [path.name for path in folder.iterdir()] == ["1"]
    assert [path.name for path in folder.parent.iterdir()] == [names[-1]]


def without_links(monkeypatch):
    """Gives Orbax the paths themselves, as earlier versions did."""
    monkeypatch.setattr(checkpoints, "PLAIN_PATH", re.compile(".*", re.DOTALL))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of Orbax's threads
@pytest.mark.parametrize("name", ["fold[1]", "a\\b"])
def test_a_folder_in_which_nothing_can_be_restored_is_refused_before_training(tmp_path, monkeypatch, name):
    without_links(monkeypatch)
    with pytest.raises(ValueError, match=f"{re.escape(str(tmp_path / name))}: a checkpoint .* cannot be restored"):
        checkpoints.check_folder(tmp_path / name)
    assert not list((tmp_path / name).iterdir())


def test_checking_a_folder_leaves_nothing(tmp_path):
    (tmp_path / checkpoints.TRIAL / "1").mkdir(parents=True)
    checkpoints.check_folder(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("template", [TREE, None], ids=["template", "no template"])
def test_arrays_that_are_not_whole_are_not_blamed_on_the_model(tmp_path, monkeypatch, template):
    folder = tmp_path / "fold[1]"
    with monkeypatch.context() as patch:
        without_links(patch)
        checkpoints.save(folder, 1, TREE, {}, keep=1)
    with pytest.raises(ValueError, match=r"every checkpoint is damaged; .* its arrays are not whole") as caught:
        checkpoints.restore(folder, template)
    assert "model or optimizer" not in str(caught.value)


@pytest.mark.parametrize("name", ["fold[1]", "a\\b"])
def test_the_documented_recipe_rescues_a_run_that_an_earlier_version_could_not_restore(tmp_path, monkeypatch, name):
    page = (Path(__file__).parents[2] / "docs" / "reliability.md").read_text()
    (recipe,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    run = tmp_path / name
    with monkeypatch.context() as patch:
        without_links(patch)
        for folder, step in (("checkpoints", 2), ("checkpoints", 4), ("best", 2)):
            checkpoints.save(run / folder, step, make_state(step), {}, keep=2)
    assert "runs/a" in recipe
    exec(recipe.replace('"runs/a"', repr(str(run))), {})
    assert_bits_equal(checkpoints.restore(run / "checkpoints", make_state(1)).state, make_state(4))
    assert_bits_equal(checkpoints.restore(run / "best", make_state(1)).state, make_state(2))


def test_a_checkpoint_that_the_run_replaces_while_it_is_read_is_not_called_damaged(folder, monkeypatch):
    """Prediction with a run that is being trained."""
    is_undamaged = checkpoints.is_undamaged

    def replaced_meanwhile(path):
        if checkpoints.steps(folder) == [4, 8]:
            monkeypatch.setattr(checkpoints, "is_undamaged", is_undamaged)
            checkpoints.save(folder, 12, make_state(12), {}, keep=1)
            monkeypatch.setattr(checkpoints, "is_undamaged", replaced_meanwhile)
        return is_undamaged(path)

    monkeypatch.setattr(checkpoints, "is_undamaged", replaced_meanwhile)
    assert checkpoints.restore(folder, make_state(1)).step == 12
