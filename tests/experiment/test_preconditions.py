"""What an experiment needs is checked for every fold, class, arm and generator before its first run."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dim_jax import train
from dim_jax.cli import command_line
from dim_jax.data.preparation import prepare_dataset
from dim_jax.experiment import arms as arms_of
from dim_jax.experiment import conductor, plan, preconditions, stages
from dim_jax.experiment.plan import Site
from dim_jax.runs import files
from dim_jax.runs.config_flags import load_file, packaged_configs
from dim_jax.runs.configuration import override, parse_config

CONFIG = packaged_configs() / "experiment.py"
SMALL = [("classifier.data.image_size", 64), ("data.path", "images"), ("folds", ()), ("only", "")]


def write_classes(folder, counts):
    """Writes small images, of one case each, as folder/CLASS/NUMBER.png."""
    rng = np.random.default_rng(0)
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(folder / name / f"{number:03}.png")
    return folder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Two frequent classes, one with too few images for a GAN, and one of a single image."""
    folder = tmp_path_factory.mktemp("slides")
    write_classes(folder / "images", {"a": 24, "b": 24, "few": 6, "rare": 1})
    return prepare_dataset(folder / "images", folder / "data", image_size=16, split="kfold", folds=3)


def problems(data, names, *more):
    """The error of an experiment with these arms; "" if there is none."""
    config = override(parse_config(load_file(f"{CONFIG}:test").to_dict()), [*SMALL, *more])
    arms = arms_of.read_arms(config)
    experiment = stages.Experiment(config, Site("slides", data.parent / "site", data), arms)
    try:
        preconditions.check([experiment], [plan.runs(arms, names, range(3), (0,))])
    except ValueError as error:
        return str(error)
    return ""


def test_a_class_without_training_images_is_named_with_its_folds(prepared):
    message = problems(prepared, ["cross_entropy"])
    assert "class 'rare' has no training images (slides fold" in message
    assert message.count("slides fold") == 2  # in one fold of three, the image is for training
    assert "config.data.exclude" in message


def test_all_problems_are_in_one_message(prepared):
    message = problems(prepared, ["cross_entropy", "copies_30", "fastgan_30", "unselected_30"],
                       ("gan.gan.conditional", False), ("gan.gan.label", "any"), ("pool.images", 4),
                       ("gan.data.resize", "pad"))  # fmt: skip
    for words in (
        "'rare' has no training images",
        "training images, too few for a GAN of its own",
        "arm unselected_30 adds up to 15 images of a class, but config.pool.images=4 makes only so many of each",
        "generator fastgan: its pool: the generator's training images were made square by config.data.resize=pad",
    ):
        assert words in message, message


def test_generated_images_smaller_than_the_input_are_refused(prepared):
    message = problems(prepared, ["dim"], ("classifier.data.image_size", 128))
    assert "generator gcgan: its pool: images of 64 px would be enlarged to the 128 px" in message


def test_copies_as_small_as_generated_images_need_leave_to_be_enlarged(prepared):
    arm, larger = ("arms.copies_30.added", "shrunk_copies"), ("classifier.data.image_size", 128)
    message = problems(prepared, ["copies_30"], arm, larger)
    assert "arm copies_30: shrunk copies: images of 64 px would be enlarged to the 128 px" in message
    allowed = problems(prepared, ["copies_30"], arm, larger, ("classifier.data.enlarge_generated", True))
    assert "shrunk copies" not in allowed


def test_what_a_diffusion_model_lacks_is_listed(prepared):
    arm = ("arms.dim.added", "diffusion")
    message = problems(prepared, ["dim"], arm, ("diffusion.diffusion.conditional", False), ("pool.images", 4),
                       ("diffusion.diffusion.label", "any"), ("diffusion.data.image_size", 32))  # fmt: skip
    for words in (
        "training images, too few for a diffusion model of its own",
        "but config.pool.images=4 makes only so many of each",
        "generator diffusion: its pool: images of 32 px would be enlarged to the 64 px",
    ):
        assert words in message, message


def test_what_is_there_already_is_not_needed(prepared, tmp_path):
    config = parse_config(load_file(f"{CONFIG}:test").to_dict())
    arms = arms_of.read_arms(config)
    data = prepare_dataset(
        write_classes(tmp_path / "images", {"a": 24, "few": 6}),
        tmp_path / "data",
        image_size=16,
        split="kfold",
        folds=3,
    )
    site = Site("slides", tmp_path / "site", data)
    experiment = stages.Experiment(override(config, [("pool.images", 4)]), site, arms)
    runs = [plan.PlannedRun(arms["dim"], 0, 0)]
    with pytest.raises(ValueError, match=r"up to 30 images of a class, but config\.pool\.images=4"):
        preconditions.check([experiment], [runs])
    preconditions.check([experiment], [[]])  # finished
    files.write_json(site.image_list(0, arms["dim"]), {"images": []})
    preconditions.check([experiment], [runs])


@given(counts=st.lists(st.integers(1, 30), min_size=2, max_size=4), names=st.sets(
    st.sampled_from(["cross_entropy", "fafl", "copies_30", "dim", "unselected_30"]), min_size=1))  # fmt: skip
def test_a_message_names_exactly_the_classes_without_training_images(counts, names):
    """On datasets that are only split: no image is read."""
    labels = np.repeat(np.arange(len(counts)), counts)
    assignments = [
        ["train" if (row + fold) % 3 else "test" if row % 2 else "val" for row in range(len(labels))]
        for fold in range(3)
    ]

    class Dataset:
        classes = tuple(f"class{number}" for number in range(len(counts)))

        def __init__(self, fold):
            self.labels, self.assignment = labels, np.array(assignments[fold])

        def rows(self, split):
            return np.flatnonzero(self.assignment == split)

    config = override(parse_config(load_file(f"{CONFIG}:test").to_dict()), SMALL)
    arms = arms_of.read_arms(config)
    experiment = stages.Experiment(config, Site("slides", plan.Path("nowhere"), plan.Path("nowhere")), arms)
    experiment._datasets = {fold: Dataset(fold) for fold in range(3)}
    try:
        preconditions.check([experiment], [plan.runs(arms, sorted(names), range(3), (0,))])
        message = ""
    except ValueError as error:
        message = str(error)
    for fold in range(3):
        train = np.array(assignments[fold]) == "train"
        for number, name in enumerate(Dataset.classes):
            is_missing = not (labels[train] == number).any()
            reported = [part for part in message.split("; ") if f"class {name!r} has no training images" in part]
            assert is_missing == any(f"slides fold {fold}" in part for part in reported)


def test_the_command_ends_before_the_first_run_and_leaves_nothing(tmp_path, capsys, monkeypatch):
    write_classes(tmp_path / "slides", {"a": 9, "b": 9, "rare": 1})
    monkeypatch.setattr(conductor, "_train_runs", lambda *_: pytest.fail("a run was started"))
    arguments = [f"--config={CONFIG}:test", f"--config.data.path={tmp_path / 'slides'}", "--config.only=copies_30"]
    assert command_line.run(train.main, [*arguments, f"--workdir={tmp_path / 'dim'}"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: the experiment cannot be run to its end") and "'rare' has no training" in error
    assert [path.name for path in tmp_path.iterdir()] == ["slides"]
    assert command_line.run(train.main, [*arguments, f"--workdir={tmp_path / 'dim'}", "--dry-run"]) == 2
    assert "'rare' has no training" in capsys.readouterr().err


def test_a_fault_in_a_run_ends_the_experiment_with_its_trace(tmp_path, capsys, monkeypatch):
    write_classes(tmp_path / "slides", {"a": 9, "b": 9})
    monkeypatch.setattr(stages.Experiment, "train_if_free", lambda *_: 1 // 0)
    arguments = [f"--config={CONFIG}:test", f"--config.data.path={tmp_path / 'slides'}", "--config.only=cross_entropy"]
    assert command_line.run(train.main, [*arguments, f"--workdir={tmp_path / 'dim'}"]) == 70
    error = capsys.readouterr().err
    assert "ZeroDivisionError" in error and "diverged:" not in error
