"""Import and export of published checkpoints: bit-exact round trips, continued training, refusal of other files."""

import hashlib
import json
import pickle
import struct
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from golden_rule import GOLDEN, normal, tensor
from hypothesis import given
from hypothesis import strategies as st
from published_weights import (
    AVERAGE,
    GAN,
    GAN_STEP,
    NARROW,
    SMALL,
    optimizer,
    published_shapes,
    small_state_dict,
    tensors_of,
    write_gan,
)
from safetensors.numpy import load_file, save_file
from torch_pickles import File, call, dictionary, plain, state_dict, view, write_state_dict

from dim_jax import evaluate, generate, report, train
from dim_jax.cli import command_line
from dim_jax.data.dataset import open_dataset
from dim_jax.data.preparation import prepare_dataset
from dim_jax.evaluation import split_evaluation
from dim_jax.evaluation.classifier_run import open_classifier_run
from dim_jax.gan import pools
from dim_jax.interop import convert, export_record, published_files
from dim_jax.models.gcgan import Generator
from dim_jax.models.lrf_cnn import LRFCNN
from dim_jax.runs import files
from dim_jax.training import checkpoints, loop
from dim_jax.weights import gcgan_names, safetensor_files, torch_files, torch_names, torch_writer

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
SHAPES = json.loads((GOLDEN / "lrf_cnn_state_dict.json").read_text())
FORMATS = pytest.mark.parametrize("to", ["torch", "safetensors"])


def run(*arguments):
    return command_line.run(convert.main, [str(argument) for argument in arguments])


def error_line(capsys):
    """The one line of an error."""
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


def read(path, key=None):
    tensors = safetensor_files.read(path) if path.suffix == ".safetensors" else torch_files.read(path)
    if key and path.suffix == ".safetensors":
        return {name[2:]: value for name, value in tensors.items() if name.startswith(f"{key}.")}
    return tensors[key] if key else tensors


def assert_same(ours, theirs):
    assert list(ours) == list(theirs) or sorted(ours) == sorted(theirs)
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)
        assert ours[name].dtype == value.dtype


def assert_same_trees(ours, theirs):
    """Leaf by leaf, since Orbax restores other containers as dicts and lists."""
    ours, theirs = jax.tree.leaves(ours), jax.tree.leaves(theirs)
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_published_network_survives_import_and_export_bit_for_bit(tmp_path, capsys):
    tensors = {name: np.array(tensor(name, tuple(shape))) for name, shape in SHAPES.items()}
    tensors |= {name: np.asarray(4321) for name in tensors if name.endswith("num_batches_tracked")}
    path = write_state_dict(tmp_path / "best_model.pth", {f"module.{name}": value for name, value in tensors.items()})
    assert run(path, f"--out={tmp_path / 'run'}") == 0
    summary = capsys.readouterr().out
    assert "24,413,190 parameters, step 4321" in summary and "normal, polyp, low_grade_in" in summary
    exported = tmp_path / "model.pth"
    assert run(tmp_path / "run", "--to=torch", f"--out={exported}") == 0
    assert "299 px (squash), scaled to [0, 1], mean 0.5203, 0.3638, 0.6511, std 0.2339" in capsys.readouterr().out
    assert {name: list(value.shape) for name, value in read(exported).items()} == SHAPES
    assert_same(read(exported), tensors)


@FORMATS
@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_both_layouts_are_imported_and_exported_files_too(tmp_path, to, layout):
    path = write_state_dict(tmp_path / "model.pth", small_state_dict(), layout)
    assert run(path, f"--out={tmp_path / 'a'}", "--image-size=32", "--mean=0.5,0.4,0.3") == 0
    suffix = "pth" if to == "torch" else "safetensors"
    for number, source in enumerate(["a", "b"]):
        assert run(tmp_path / source, f"--to={to}", f"--out={tmp_path / f'{number}.{suffix}'}") == 0
        if number == 0:
            assert run(tmp_path / f"0.{suffix}", f"--out={tmp_path / 'b'}") == 0
    assert_same(read(tmp_path / f"1.{suffix}"), small_state_dict())
    assert (tmp_path / f"0.{suffix}").read_bytes() == (tmp_path / f"1.{suffix}").read_bytes()
    config = files.read_json(tmp_path / "a" / "config.json")
    assert config["data"]["image_size"] == 32 and config["data"]["mean"] == [0.5, 0.4, 0.3]
    origin = files.read_json(tmp_path / "a" / "environment.json")["imported from"]
    assert origin.startswith("model.pth SHA-256 ")


def torch_modules():
    # PyTorch's optimizers import Triton, which crashes the process if TensorFlow was imported before.
    sys.modules.setdefault("triton", None)
    torch = pytest.importorskip("torch", reason="PyTorch is optional: pip install -e '.[torch]'")
    sys.path.append(str(ROOT / "benchmarks"))
    import torch_baseline
    import torch_gcgan

    return torch, torch_baseline, torch_gcgan


@pytest.mark.torch
def test_pytorch_loads_exported_files_strictly_and_with_weights_only(tmp_path):
    torch, torch_baseline, torch_gcgan = torch_modules()
    path = write_state_dict(tmp_path / "a.pth", {name: np.array(tensor(name, tuple(s))) for name, s in SHAPES.items()})
    assert run(path, f"--out={tmp_path / 'run'}") == 0
    assert run(tmp_path / "run", "--to=torch", f"--out={tmp_path / 'b.pth'}") == 0
    loaded = torch.load(tmp_path / "b.pth", weights_only=True)
    torch_baseline.LRFCNN(5).load_state_dict(loaded, strict=True)
    assert_same({name: value.numpy() for name, value in loaded.items()}, read(path))
    assert run(write_gan(tmp_path / "all.pth"), f"--out={tmp_path / 'gan'}", "--label=polyp") == 0
    assert run(tmp_path / "gan", "--to=torch", f"--out={tmp_path / 'pair.pth'}") == 0
    pair = torch.load(tmp_path / "pair.pth", weights_only=True)
    torch_gcgan.Generator(64, NARROW).load_state_dict(pair["g"], strict=True)
    torch_gcgan.Discriminator(64, NARROW).load_state_dict(pair["d"], strict=True)


TRAINING = [f"--config={CONFIGS / 'published.py'}:test", "--config.train.report=False"]
STEP = 4


def write_training_checkpoint(path):
    """A usual checkpoint of epoch, model and Adam, from several GPUs; returns the path and the moments."""
    file, tensors = File(), small_state_dict(STEP)
    params = published_files.parameters(tensors)
    moments = {
        "exp_avg": [normal(f"first {name}", array.shape) for name, array in params.items()],
        "exp_avg_sq": [np.abs(normal(f"second {name}", array.shape)) for name, array in params.items()],
    }
    wrapped = {f"module.{name}": value for name, value in tensors.items()}
    parts = {"epoch": plain(1), "model_state_dict": tensors_of(file, wrapped), "best_acc": plain(0.5)}
    parts["optimizer_state_dict"] = optimizer(file, moments, STEP)
    return file.write(path, dictionary(parts), "zip"), moments


def test_training_continues_with_the_moments_and_the_step_of_a_checkpoint(data, tmp_path, capsys):
    path, moments = write_training_checkpoint(tmp_path / "checkpoint_epoch_1.pth")
    classes = ",".join(open_dataset(data).classes)
    workdir = tmp_path / "run"
    arguments = [path, f"--data={data}", f"--classes={classes}", *TRAINING]
    assert run(*arguments, f"--out={workdir}", "--config.train.num_epochs=2") == 0
    assert f"continues at step {STEP}" in capsys.readouterr().out
    state = checkpoints.restore(workdir / loop.CHECKPOINTS).state
    names, expected = torch_names.lrf_cnn_names(SMALL), small_state_dict(STEP)
    tensors = torch_names.to_torch({name: state[name] for name in ("params", "batch_stats")}, names)
    assert_same(published_files.with_counters(tensors, state["step"]), expected)
    optax_states = [part for part in state["opt_state"] if part]
    (adam,) = [part for part in optax_states if "mu" in part]
    for ours, theirs in (("mu", "exp_avg"), ("nu", "exp_avg_sq")):
        values = torch_names.to_torch({"params": adam[ours]}, names)
        assert_same(values, dict(zip(published_files.parameters(expected), moments[theirs], strict=True)))
    # Counters of Adam's bias correction and of the learning rate schedule.
    assert [int(part["count"]) for part in optax_states if "count" in part] == [STEP, STEP]

    assert command_line.run(train.main, [f"--workdir={workdir}"]) == 0
    steps = [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert min(steps) == STEP + 2 and max(steps) == checkpoints.steps(workdir / loop.CHECKPOINTS)[-1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("--config.optimizer.name=rmsprop", "was trained with adam"),
        ("--config.train.steps_per_dispatch=6", "give --config.train.steps_per_dispatch=2"),
        ("--config.model.width=0.25", "is of another network"),
        ("--classes=adenocarcinoma,polyp,normal,low_grade_in,high_grade_in", "in another order"),
    ],
)
def test_a_training_checkpoint_that_does_not_fit_is_refused(data, tmp_path, change, words, capsys):
    path, _ = write_training_checkpoint(tmp_path / "checkpoint_epoch_1.pth")
    classes = f"--classes={','.join(open_dataset(data).classes)}"
    assert run(path, f"--data={data}", classes, *TRAINING, change, f"--out={tmp_path / 'run'}") == 2
    assert words in error_line(capsys) and not (tmp_path / "run").exists()


def test_another_number_of_classes_is_refused_or_gets_a_new_head(data, tmp_path, capsys):
    other = LRFCNN(num_classes=7, width=0.125, stages=((64,),))
    tensors = {name: np.array(tensor(name, shape)) for name, shape in published_shapes(other).items()}
    path = write_state_dict(tmp_path / "seven.pth", published_files.with_counters(tensors, 9))
    assert run(path, f"--out={tmp_path / 'run'}") == 2
    assert "has 7 output classes, not the 5 of normal" in error_line(capsys)
    assert run(path, f"--out={tmp_path / 'run'}", "--reset-head") == 2
    assert "give --config=configs/published.py and --data=DATA" in error_line(capsys)
    assert run(path, f"--out={tmp_path / 'run'}", "--reset-head", f"--data={data}", *TRAINING) == 0
    restored = checkpoints.restore(tmp_path / "run" / loop.CHECKPOINTS)
    params = restored.state["params"]
    assert restored.step == 0 and params["head"]["kernel"].shape == (8, 5) and params["head"]["kernel"].std() > 0
    np.testing.assert_array_equal(params["attention_gate"]["bias"], tensors["attention_fc.2.bias"])
    assert command_line.run(evaluate.main, [f"--workdir={tmp_path / 'run'}"]) == 2
    assert "holds no checkpoint yet" in capsys.readouterr().err


def test_labels_follow_the_order_of_the_outputs_whatever_that_of_the_data(data, tmp_path, capsys):
    """Evaluation, report and refused training of an imported run."""
    path = write_state_dict(tmp_path / "model.pth", small_state_dict())
    workdir = tmp_path / "run"
    backwards = open_dataset(data).classes[::-1]
    arguments = [path, f"--out={workdir}", f"--data={data}", "--image-size=32"]
    assert run(*arguments, f"--classes={','.join(backwards[1:])},other") == 2
    assert f"has images of {backwards[0]}" in error_line(capsys)
    assert run(*arguments, f"--classes={','.join(backwards)}") == 0
    metrics = split_evaluation.evaluate_split(workdir, "test")
    assert metrics["classes"] == list(backwards) and metrics["checkpoint_step"] == 7
    dataset, predictions = open_dataset(data), np.load(workdir / "eval" / "test" / "predictions.npz")
    np.testing.assert_array_equal(predictions["label"], 4 - dataset.labels[predictions["index"]])
    assert command_line.run(report.main, [str(workdir)]) == 0
    assert "0.5203" in (workdir / "report.html").read_text()
    capsys.readouterr()
    assert command_line.run(train.main, [f"--workdir={workdir}"]) == 2
    assert "imported for use alone" in error_line(capsys)
    assert run(path, f"--out={tmp_path / 'bare'}") == 0
    capsys.readouterr()
    assert command_line.run(evaluate.main, [f"--workdir={tmp_path / 'bare'}"]) == 2
    assert "imported without images" in error_line(capsys)


@FORMATS
def test_a_pair_of_networks_is_exported_with_the_averaged_generator(tmp_path, to, capsys):
    path = write_gan(tmp_path / "all_12.pth")
    assert run(path, f"--out={tmp_path / 'gan'}", "--label=polyp") == 0
    assert "rmsprop at step 12" in capsys.readouterr().out
    exported = tmp_path / ("12.pth" if to == "torch" else "12.safetensors")
    assert run(tmp_path / "gan", f"--to={to}", f"--out={exported}") == 0
    averaged = GAN["g"] | dict(zip(published_files.parameters(GAN["g"]), AVERAGE, strict=True))
    assert_same(read(exported, "g"), published_files.with_counters(averaged, GAN_STEP))
    assert_same(read(exported, "d"), published_files.with_counters(GAN["d"], GAN_STEP))
    assert run(exported, f"--out={tmp_path / 'again'}", "--label=polyp") == 0
    again = checkpoints.restore(tmp_path / "again" / loop.CHECKPOINTS).state
    assert_same_trees(again["ema_params"], again["generator"]["params"])


def test_an_imported_gan_generates_images_of_no_split(tmp_path, data, capsys):
    assert run(write_gan(tmp_path / "all_12.pth"), f"--out={tmp_path / 'gan'}", "--label=polyp") == 0
    arguments = [f"--workdir={tmp_path / 'gan'}", "--num=3", f"--out={tmp_path / 'pool'}"]
    assert command_line.run(generate.main, arguments) == 0
    (pool,) = pools.load(tmp_path / "pool")
    assert len(pool.images) == 3 and pool.label == "polyp" and pool.split_sha256 == ""
    capsys.readouterr()
    assert run(tmp_path / "all_12.pth", f"--out={tmp_path / 'x'}", "--label=wart", f"--data={data}") == 2
    assert "has no class 'wart'" in error_line(capsys)


def test_a_gan_continues_with_its_moments_and_its_average(tmp_path, data):
    settings = ["published,test", "--config.model.tanh=False", f"--config.model.width={NARROW}"]
    arguments = [f"--config={CONFIGS / 'gan.py'}:{settings[0]}", *settings[1:], "--config.gan.perceptual=pixels"]
    arguments += [f"--data={data}", "--label=polyp", "--config.data.image_size=64"]
    assert run(write_gan(tmp_path / "all_12.pth"), f"--out={tmp_path / 'gan'}", *arguments) == 0
    restored = checkpoints.restore(tmp_path / "gan" / loop.CHECKPOINTS)
    assert restored.step == GAN_STEP == restored.state["step"] and restored.state["augment_probability"] == 1
    names = gcgan_names.generator_names(Generator(64, NARROW))
    averaged = gcgan_names.to_torch({"params": restored.state["ema_params"]}, names)
    for name, expected in zip(published_files.parameters(GAN["g"]), AVERAGE, strict=True):
        np.testing.assert_array_equal(averaged[name], expected)
    (moments,) = [state["nu"] for state in restored.state["generator"]["opt_state"] if state]
    for name, value in gcgan_names.to_torch({"params": moments}, names).items():
        np.testing.assert_array_equal(value, np.abs(normal(name, value.shape)))


MARK = "it-ran"


def bad_files():
    """Title -> (suffix, bytes of the file, words of the message)."""
    good = small_state_dict()

    def pth(change=None, layout="zip", **more):
        file = File()
        items = {name: file.tensor(np.array(array)) for name, array in ((change or good) | more).items()}
        return file, b"\x80\x02" + state_dict(items) + b".", layout

    def encoded(file, opcodes, layout):
        return (file.zipped if layout == "zip" else file.legacy)(opcodes)

    cases = {"a web page": (".pth", b"<!DOCTYPE html><title>404</title>", "is not a .pth of PyTorch but a web page")}
    whole = encoded(*pth())
    cases["a truncated archive"] = (".pth", whole[: len(whole) // 2], "damaged or cut short")
    for title in ("os.system", "posix.system", "builtins.eval", "builtins.exec", "subprocess.Popen"):
        module, attribute = title.split(".")
        for layout in ("zip", "legacy"):
            file = File()
            python = f"open({MARK!r}, 'w')"
            argument = python if attribute in ("eval", "exec") else f"touch {MARK}"
            items = {"w": file.tensor(np.ones(3, np.float32)), "x": call(module, attribute, plain(argument))}
            file_bytes = encoded(file, b"\x80\x02" + dictionary(items) + b".", layout)
            cases[f"{title} in a {layout} file"] = (".pth", file_bytes, f"asks for {title}")

    class CreatesFile:
        def __reduce__(self):
            return open, (MARK, "w")

    cases["a reduce"] = (
        ".pth",
        File().zipped(pickle.dumps({"x": CreatesFile()}, 2)),
        f"asks for {open.__module__}.open",
    )
    other = {"features.0.weight": np.zeros((64, 3, 3, 3), np.float32), "classifier.6.bias": np.zeros(10, np.float32)}
    cases["another architecture"] = (".pth", encoded(*pth(other)), "holds neither LRF-CNN nor GCGAN (its tensors begin")
    wider = {"features.0.weight": np.zeros((9, 3, 7, 7), np.float32)}
    cases["a layer of another width"] = (".pth", encoded(*pth(**wider)), "of another network: features.0.bias is (8,)")
    more = encoded(*pth(extra=np.zeros(3, np.float32)))
    cases["one layer too many"] = (".pth", more, "extra is (3,), expected no such tensor")
    missing = {name: array for name, array in good.items() if name != "features.1.bias"}
    cases["one tensor too few"] = (".pth", encoded(*pth(missing)), "features.1.bias is missing, expected (8,)")
    cases["scalars for layers"] = (".pth", encoded(*pth(dict.fromkeys(good, np.float32(0)))), "holds neither")
    nan = good["classifier.weight"].copy()
    nan[1, 2] = np.nan
    cases["a weight that is no number"] = (".pth", encoded(*pth(**{"classifier.weight": nan})), "that are not finite")
    file = File()
    huge = dictionary({"w": view(file.add_storage(np.ones(4, np.float32)), 0, (2_500_000_000,), (1,))})
    cases["a tensor of 10 GB"] = (".pth", file.zipped(b"\x80\x02" + huge + b"."), "claims a tensor of 2500000000")
    header = json.dumps({"w": {"dtype": "F32", "shape": [2_500_000_000], "data_offsets": [0, 10**10]}}).encode()
    claims = {"10 GB": struct.pack("<Q", len(header)) + header, "a header of 10 GB": struct.pack("<Q", 10**10) + b"{}"}
    for title, file_bytes in {**claims, "nothing": b""}.items():
        cases[f"{title} in .safetensors"] = (".safetensors", file_bytes, "is not a complete .safetensors")
    file = File()
    parts = {"model": tensors_of(file, good), "optimizer": optimizer(file, {"exp_avg": [np.zeros(3)]}, 1)}
    cases["an optimizer of something else"] = (
        ".pth", file.zipped(b"\x80\x02" + dictionary(parts) + b"."), "fits no network"
    )  # fmt: skip
    file = File()
    buffers = [np.zeros(array.shape, np.float32) for array in published_files.parameters(good).values()]
    parts = {"model": tensors_of(file, good), "optimizer": optimizer(file, {"momentum_buffer": buffers}, 1)}
    cases["an optimizer without a counterpart"] = (
        ".pth", file.zipped(b"\x80\x02" + dictionary(parts) + b"."), "holds momentum_buffer; only plain Adam"
    )  # fmt: skip
    return cases


BAD_FILES = bad_files()


@pytest.mark.parametrize("title", BAD_FILES)
def test_a_bad_file_is_refused_in_one_line_and_leaves_nothing(tmp_path, title, monkeypatch, capsys):
    suffix, file_bytes, words = BAD_FILES[title]
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"file{suffix}"
    path.write_bytes(file_bytes)
    assert run(path, f"--out={tmp_path / 'runs' / 'imported'}") == 2
    line = error_line(capsys)
    assert str(path) in line and words in line
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{tmp}/none.pth", "--out={tmp}/run"], "none.pth: no such file"),
        (["{tmp}", "--out={tmp}/run"], "is a folder; export a run with --to=torch"),
        (["{file}", "--out={tmp}"], "exists already"),
        (["{file}", "--out={tmp}/run", "--classes=a,a,b,c,d"], "names a class twice"),
        (["{file}", "--out={tmp}/run", "--classes=a,b"], "has 5 output classes, not the 2 of a, b"),
        (["{file}", "--out={tmp}/run", "--mean=0.5,0.5"], "--mean=0.5,0.5 must be three numbers"),
        (["{file}", "--out={tmp}/run", "--data={tmp}"], "manifest.json: no such file"),
        (["{file}", "--out={tmp}/run", "--config=configs/published.py"], "give a prepared dataset with --data=DATA"),
        (["{file}", "--out={tmp}/run", "--config.seed=1"], "--config.seed=1 is for continuing training"),
        (["{file}", "--out={tmp}/run", "--width=2"], "--width=2 is not an option"),
        (["{tmp}/run", "--to=torch", "--out={tmp}/new.pth"], "holds no run"),
        (["{tmp}/run", "--to=torch", "--out={tmp}/model.pth"], "would overwrite"),
        (["{tmp}/run", "--to=onnx", "--out={tmp}/model"], "--to"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_one_line(tmp_path, arguments, words, capsys):
    file = write_state_dict(tmp_path / "model.pth", small_state_dict())
    assert run(*(argument.format(tmp=tmp_path, file=file) for argument in arguments)) == 2
    assert words in error_line(capsys)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.pth"]


def test_a_network_that_was_not_published_is_not_exported(data, tmp_path, capsys):
    path = write_state_dict(tmp_path / "a.pth", small_state_dict())
    workdir, classes = tmp_path / "run", ",".join(open_dataset(data).classes)
    assert run(path, f"--out={workdir}", f"--data={data}", f"--classes={classes}") == 0
    config = files.read_json(workdir / "config.json")
    files.write_json(workdir / "config.json", config | {"model": {"name": "efficientnet_lite0"}})
    assert run(workdir, "--to=torch", f"--out={tmp_path / 'model.pth'}") == 2
    assert "is efficientnet_lite0, which the published code does not have" in error_line(capsys)
    assert not (tmp_path / "model.pth").exists()


def exported(folder, to, data="", **facts):
    """An export of a run with other classes and preprocessing than the published ones."""
    path = write_state_dict(folder / "model.pth", small_state_dict())
    options = {"classes": "e,d,c,b,a", "image-size": 32, "resize": "pad", "mean": "0.5,0.4,0.3", "std": "0.3,0.2,0.1"}
    flags = [f"--{name}={value}" for name, value in (options | facts).items()]
    assert run(path, f"--out={folder / 'first'}", *flags, *([f"--data={data}"] if data else [])) == 0
    out = folder / ("model.safetensors" if to == "safetensors" else "export.pth")
    assert run(folder / "first", f"--to={to}", f"--out={out}") == 0
    return out


@FORMATS
def test_what_an_export_knows_of_classes_and_images_comes_back(tmp_path, to, capsys):
    out = exported(tmp_path, to)
    capsys.readouterr()
    assert run(out, f"--out={tmp_path / 'again'}") == 0
    assert "as published" not in capsys.readouterr().out
    first, again = (files.read_json(tmp_path / name / "config.json") for name in ("first", "again"))
    assert again["classes"] == list("edcba") == first["classes"]
    assert again["data"]["image_size"] == 32 and again["data"]["resize"] == "pad"
    one, other = (open_classifier_run(tmp_path / name) for name in ("first", "again"))
    assert one.config.model == other.config.model
    np.testing.assert_array_equal(one.mean, other.mean)
    np.testing.assert_array_equal(one.std, other.std)
    assert_same_trees(one.variables, other.variables)
    record = files.read_json(tmp_path / f"{out.name}.json")
    assert record["classes"] == list("edcba") and record["resize"] == "pad" and record["file"] == out.name
    assert record["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    # Without the JSON, which is for people, nothing changes; options of the command line are preferred.
    (tmp_path / f"{out.name}.json").unlink()
    assert run(out, f"--out={tmp_path / 'other'}", "--classes=v,w,x,y,z", "--image-size=64") == 0
    config = files.read_json(tmp_path / "other" / "config.json")
    assert config["classes"] == list("vwxyz") and config["data"]["image_size"] == 64
    capsys.readouterr()
    assert run(out, f"--out={tmp_path / 'order'}", "--classes=a,b,c,d,e") == 2
    assert "is another order than that of the outputs" in error_line(capsys)


def test_weights_that_another_program_saved_again_are_not_read_with_published_defaults(tmp_path, capsys):
    run, file = tmp_path / "run", tmp_path / "model.safetensors"
    weights = write_state_dict(tmp_path / "weights.pth", small_state_dict())
    assert command_line.run(convert.main, [str(weights), f"--out={run}", "--classes=e,d,c,b,a"]) == 0
    assert command_line.run(convert.main, [str(run), "--to=safetensors", f"--out={file}"]) == 0
    save_file(load_file(file), file)
    assert command_line.run(convert.main, [str(file), f"--out={tmp_path / 'again'}"]) == 2
    assert "is not the file that" in (error := capsys.readouterr().err) and "give --classes" in error
    (tmp_path / "model.safetensors.json").unlink()
    assert command_line.run(convert.main, [str(file), f"--out={tmp_path / 'again'}"]) == 0


def test_a_state_dict_holds_no_entry_of_ours(tmp_path):
    """load_state_dict(torch.load(path)) is strict about unknown names."""
    assert set(read(exported(tmp_path, "torch"))) == set(small_state_dict())


@FORMATS
def test_options_of_the_network_that_its_weights_do_not_show_come_back(tmp_path, to):
    out = exported(tmp_path, to)
    config = files.read_json(tmp_path / "first" / "config.json")
    branches = [[3, 0], [3, 2], [5, 4], [5, 6]]
    config["model"] |= {"branches": branches, "drop_connect": 0.25, "dtype": "bfloat16"}
    files.write_json(tmp_path / "first" / "config.json", config)
    assert run(tmp_path / "first", f"--to={to}", f"--out={out}") == 0  # replaces its own export
    assert run(out, f"--out={tmp_path / 'again'}") == 0
    model = files.read_json(tmp_path / "again" / "config.json")["model"]
    assert (model["branches"], model["drop_connect"], model["dtype"]) == (branches, 0.25, "bfloat16")


def test_the_data_tell_the_order_of_outputs_or_the_user_does(data, tmp_path, capsys):
    published = open_dataset(data).classes
    path = write_state_dict(tmp_path / "model.pth", small_state_dict())
    other = prepare_dataset("phantom", tmp_path / "other", image_size=32, scale=0.03, classes=sorted(published))
    capsys.readouterr()
    assert run(path, f"--out={tmp_path / 'run'}", f"--data={other}") == 2
    line = error_line(capsys)
    assert "does not record the order of its outputs" in line and f"--classes={','.join(sorted(published))}" in line
    assert not (tmp_path / "run").exists()
    assert run(path, f"--out={tmp_path / 'a'}", f"--data={data}") == 0
    out = exported(tmp_path, "torch", other, classes=",".join(sorted(published)))
    assert run(out, f"--out={tmp_path / 'b'}", f"--data={data}") == 0
    assert open_classifier_run(tmp_path / "b").classes == tuple(sorted(published))


def test_an_export_is_opened_with_the_fold_it_was_trained_on(tmp_path, caplog):
    folds = prepare_dataset("phantom", tmp_path / "folds", image_size=32, scale=0.03, split="kfold", folds=3)
    out = exported(tmp_path, "torch", folds, classes=",".join(open_dataset(folds).classes))
    config = files.read_json(tmp_path / "first" / "config.json")
    config["data"]["fold"] = 2
    files.write_json(tmp_path / "first" / "config.json", config)
    assert run(tmp_path / "first", "--to=torch", f"--out={out}") == 0
    assert run(out, f"--out={tmp_path / 'again'}", f"--data={folds}") == 0
    assert files.read_json(tmp_path / "again" / "config.json")["data"]["fold"] == 2
    assert "another split" not in caplog.text
    other = prepare_dataset("phantom", tmp_path / "other", image_size=32, scale=0.03, seed=1)
    assert run(out, f"--out={tmp_path / 'third'}", f"--data={other}") == 0
    assert "was trained on another split" in caplog.text


def test_training_continues_with_the_images_that_an_export_tells(data, tmp_path):
    classes = ",".join(open_dataset(data).classes)
    out = exported(tmp_path, "torch", data, classes=classes, **{"image-size": 48})
    assert run(out, f"--data={data}", *TRAINING, f"--out={tmp_path / 'a'}") == 0
    config = files.read_json(tmp_path / "a" / "config.json")["data"]
    assert (config["image_size"], config["resize"]) == (48, "pad")
    np.testing.assert_allclose(config["mean"], [0.5, 0.4, 0.3], rtol=1e-6)
    assert run(out, f"--data={data}", *TRAINING, "--config.data.image_size=32", f"--out={tmp_path / 'b'}") == 0
    assert files.read_json(tmp_path / "b" / "config.json")["data"]["image_size"] == 32


@FORMATS
def test_a_gan_comes_back_with_its_class_policy_and_statistics(data, tmp_path, to, capsys):
    path = write_gan(tmp_path / "all_12.pth")
    assert run(path, f"--out={tmp_path / 'gan'}", "--label=polyp", f"--data={data}", "--resize=crop") == 0
    config = files.read_json(tmp_path / "gan" / "config.json")
    config["gan"]["statistics"], config["model"]["tanh"] = "recalibrated", True
    files.write_json(tmp_path / "gan" / "config.json", config)
    out = tmp_path / f"pair.{'pth' if to == 'torch' else to}"
    assert run(tmp_path / "gan", f"--to={to}", f"--out={out}") == 0
    assert run(out, f"--out={tmp_path / 'again'}", f"--data={data}") == 0
    again = files.read_json(tmp_path / "again" / "config.json")
    assert again["gan"]["label"] == "polyp" and again["data"]["resize"] == "crop"
    assert again["gan"]["statistics"] == "recalibrated" and again["model"]["tanh"] is True
    training = [f"--config={CONFIGS / 'gan.py'}:published,test", "--config.gan.perceptual=pixels", f"--data={data}"]
    training += [f"--config.model.width={NARROW}", "--config.data.image_size=64"]
    assert run(out, f"--out={tmp_path / 'on'}", *training) == 0
    on = files.read_json(tmp_path / "on" / "config.json")
    assert on["gan"]["label"] == "polyp" and on["gan"]["statistics"] == "recalibrated" and on["model"]["tanh"] is True
    other = prepare_dataset("phantom", tmp_path / "other", image_size=32, scale=0.03, seed=1)
    capsys.readouterr()
    assert run(out, f"--out={tmp_path / 'third'}", f"--data={other}") == 2
    assert "was trained on another split" in capsys.readouterr().err


@FORMATS
@pytest.mark.parametrize("change", [
    lambda record: record.update(format=2),
    lambda record: record.update(classes=["a", "a", "b", "c", "d"]),
    lambda record: record.update(classes="abcde"),
    lambda record: record.update(image_size=10**9),
    lambda record: record.update(resize="stretch"),
    lambda record: record.update(std=[0.1, 0.2]),
    lambda record: record.update(network={"name": "os:system"}),
    lambda record: record.update(network={"branches": 3}),
    lambda record: record.pop("trainer"),
])  # fmt: skip
def test_a_damaged_record_is_refused(tmp_path, to, change, capsys):
    record = {
        "format": 1, "trainer": "classifier", "classes": list("abcde"), "image_size": 32, "resize": "pad",
        "mean": [0.5, 0.5, 0.5], "std": [0.1, 0.1, 0.1],
    }  # fmt: skip
    change(record)
    to_torch = to == "torch"
    encode, name = (torch_writer.encode, "dim_jax.json") if to_torch else (safetensor_files.encode, export_record.KEY)
    path = tmp_path / f"a.{'pth' if to_torch else to}"
    path.write_bytes(encode(small_state_dict(), {name: json.dumps(record)}))
    assert run(path, f"--out={tmp_path / 'run'}") == 2
    assert "the record of its classes is damaged" in error_line(capsys) and not (tmp_path / "run").exists()


RECORDS = st.builds(
    export_record.ExportRecord,
    trainer=st.just("classifier"),
    classes=st.lists(st.text(st.characters(codec="utf-8"), min_size=1), min_size=2, max_size=6, unique=True).map(tuple),
    image_size=st.integers(16, 4096),
    resize=st.sampled_from(["squash", "crop", "pad"]),
    mean=st.tuples(*[st.floats(0, 1)] * 3),
    std=st.tuples(*[st.floats(0.01, 1)] * 3),
    network=st.fixed_dictionaries({"dtype": st.sampled_from(["float32", "bfloat16"])}),
    fold=st.integers(0, 4),
    split_sha256=st.sampled_from(["", "ab" * 32]),
)


@FORMATS
@given(record=RECORDS)
def test_every_record_survives_the_file(tmp_path_factory, to, record):
    text, tensors = export_record.to_text(record), {"a": np.ones(2, np.float32)}
    path = tmp_path_factory.mktemp("records") / f"a.{'pth' if to == 'torch' else to}"
    if to == "torch":
        path.write_bytes(torch_writer.encode(tensors, {"dim_jax.json": text}))
    else:
        path.write_bytes(safetensor_files.encode(tensors, {export_record.KEY: text}))
    assert export_record.read(path) == record


@FORMATS
def test_an_export_replaces_only_an_unchanged_export(tmp_path, to, capsys):
    out = exported(tmp_path, to)
    again = [tmp_path / "first", f"--to={to}", f"--out={out}"]
    assert run(*again) == 0
    out.write_bytes(b"mine")
    capsys.readouterr()
    assert run(*again) == 2
    assert f"would overwrite {out}" in error_line(capsys) and out.read_bytes() == b"mine"
    out.unlink()
    beside = tmp_path / f"{out.name}.json"
    beside.write_text("mine")
    assert run(*again) == 2
    assert f"would overwrite {beside}" in error_line(capsys) and beside.read_text() == "mine" and not out.exists()
