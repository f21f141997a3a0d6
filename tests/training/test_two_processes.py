"""Two processes with two devices each against one process with four, and resuming on other numbers of devices."""

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from toy_task import lines
from two_hosts import on_two_hosts

from dim_jax import train
from dim_jax.cli import command_line
from dim_jax.data import manifest, splits
from dim_jax.data.preparation import prepare_dataset
from dim_jax.gan import pools
from dim_jax.training import checkpoints, hosts, loop

ROOT = Path(__file__).parents[2]
# Under SGD the parameters are the sum of the gradients; adaptive optimizers amplify the rounding of zero gradients.
COMMON = ["--config.optimizer.name=sgd", "--config.train.report=False", "--config.train.keep_checkpoints=9"]
CLASSIFIER = [
    f"--config={ROOT / 'configs' / 'classifier.py'}:test", "--config.model.stages=((32,),)",
    "--config.optimizer.warmup_epochs=0", "--config.optimizer.learning_rate=0.05",
    "--config.train.checkpoint_every_epochs=0.3", "--config.train.ema_decay=0.9",
    "--config.augment.mixing=balanced_mixup", "--config.loss.name=cross_entropy", *COMMON,
]  # fmt: skip
GAN = [
    f"--config={ROOT / 'configs' / 'gan.py'}:test", "--config.gan.label=low_grade_in", "--config.model.width=0.015625",
    *COMMON,
]  # fmt: skip
JOBS = {"classifier": CLASSIFIER, "gan": GAN}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom")
    sizes = {"classifier": (32, 0.03), "gan": (64, 0.05)}
    return {
        name: prepare_dataset("phantom", folder / name, image_size=size, scale=scale)
        for name, (size, scale) in sizes.items()
    }


def on_devices(count, *arguments):
    """Trains in this process on its first `count` devices."""
    with pytest.MonkeyPatch.context() as patch:
        devices, everything = jax.devices()[:count], jax.local_devices
        patch.setattr(jax, "local_device_count", lambda: count)
        patch.setattr(jax, "local_devices", lambda **of: everything(**of)[:1] if of else devices)
        assert command_line.run(train.main, list(map(str, arguments))) == 0


def assert_same_run(ours, theirs):
    """Metrics and parameters, which are sums of gradients, agree to 1e-5; the gradient norm accumulates rounding."""
    for line, other in zip(lines(ours), lines(theirs), strict=True):
        assert line.keys() == other.keys()
        for name, value in line.items():
            if isinstance(value, float):
                rel = 1e-3 if name.endswith("gradient_norm") else 1e-5
                assert value == pytest.approx(other[name], rel=rel, abs=1e-5), (line["step"], name)
            else:
                assert value == other[name], (line["step"], name)
    assert checkpoints.steps(ours / loop.CHECKPOINTS) == checkpoints.steps(theirs / loop.CHECKPOINTS)
    ours, theirs = (checkpoints.restore(run / loop.CHECKPOINTS).state for run in (ours, theirs))
    for leaf, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(leaf, other, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def on_four(data, tmp_path_factory):
    """Finished runs on four devices of one process by name of the job, trained at first use."""
    made = {}

    def run(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp("four") / name
            on_devices(4, *JOBS[name], f"--config.data.path={data[name]}", f"--workdir={made[name]}")
        return made[name]

    return run


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        ("classifier", "resident"),
        pytest.param("classifier", "tf", marks=pytest.mark.slow),
        pytest.param("gan", "resident", marks=pytest.mark.slow),
        pytest.param("gan", "tf", marks=pytest.mark.slow),
    ],
)
def test_two_processes_train_like_one(data, on_four, tmp_path, name, backend):
    run = tmp_path / "run"
    options = [f"--config.data.path={data[name]}", f"--workdir={run}", f"--config.data.backend={backend}"]
    first, second = on_two_hosts("train", *JOBS[name], *options)
    assert (first[0], second[0]) == (0, 0), first[2] + second[2]
    assert "drawn/epoch" in first[1] and "drawn/epoch" not in second[1]
    assert_same_run(run, on_four(name))
    if name == "classifier":
        listed = manifest.load(data[name])
        for split in ("val", "test"):
            ours, theirs = (dict(np.load(each / "eval" / split / "predictions.npz")) for each in (run, on_four(name)))
            np.testing.assert_array_equal(np.sort(ours["index"]), splits.load(data[name], listed).rows(0, split))
            for key in theirs:
                tolerance = 1e-3 if key == "grad_cam" else 1e-5  # maps are stored in float16
                np.testing.assert_allclose(ours[key], theirs[key], rtol=tolerance, atol=tolerance, err_msg=key)


@pytest.mark.parametrize(
    ("name", "devices"),
    [
        ("classifier", 1),
        *(pytest.param("classifier", count, marks=pytest.mark.slow) for count in (2, 8)),
        *(pytest.param("gan", count, marks=pytest.mark.slow) for count in (1, 2, 8)),
    ],
)
def test_a_run_of_four_devices_resumes_on_another_number(on_four, tmp_path, name, devices):
    run = tmp_path / "run"
    shutil.copytree(on_four(name), run)
    shutil.rmtree(run / loop.BEST, ignore_errors=True)
    first, *later = checkpoints.steps(run / loop.CHECKPOINTS)
    for step in later:
        shutil.rmtree(run / loop.CHECKPOINTS / str(step))
    assert later and lines(run)[-1]["step"] > first
    on_devices(devices, f"--workdir={run}")
    assert_same_run(run, on_four(name))


@pytest.mark.slow
def test_hosts_share_the_seeds_of_a_pool_and_the_rows_of_an_evaluation(on_four, tmp_path):
    """From the command line after training, with more images than fit in the batches of one host."""
    run = tmp_path / "run"
    shutil.copytree(on_four("gan"), run)
    for num, is_on_two in ((20, True), (20, False), (3, True)):
        out = tmp_path / f"pool-{num}-{is_on_two}"
        options = [f"--workdir={run}", f"--num={num}", "--first-seed=5", f"--out={out}"]
        if is_on_two:
            ended = on_two_hosts("generate", *options)
            assert [code for code, *_ in ended] == [0, 0], ended
            assert f"{num} images" in ended[0][1] and f"{num} images" not in ended[1][1]
        else:
            from dim_jax import generate

            assert command_line.run(generate.main, options) == 0
        (pool,) = pools.load(out)
        assert [image.seed for image in pool.images] == list(range(5, 5 + num))
    ours, theirs = (pools.load(tmp_path / f"pool-20-{is_on_two}")[0] for is_on_two in (True, False))
    assert [image.sha256 for image in ours.images] == [image.sha256 for image in theirs.images]

    run = tmp_path / "classifier"
    shutil.copytree(on_four("classifier"), run)
    shutil.rmtree(run / "eval")
    ended = on_two_hosts("evaluate", f"--workdir={run}", "--split=test", "--checkpoint=newest")
    assert [code for code, *_ in ended] == [0, 0], ended
    assert "macro_f1" in ended[0][1] and "macro_f1" not in ended[1][1]
    ours = np.load(run / "eval" / "test" / "predictions.npz")
    theirs = np.load(on_four("classifier") / "eval" / "test" / "predictions.npz")
    np.testing.assert_allclose(ours["logits"], theirs["logits"], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_errors_are_reported_by_all_hosts_and_leave_no_files(data, tmp_path):
    run = tmp_path / "run"
    good = [*CLASSIFIER, f"--config.data.path={data['classifier']}", f"--workdir={run}"]
    for more, message in (
        (["--config.optimizer.name=adamw2"], "must be one of adam"),
        (["--config.train.global_batch_size=6"], "must be a multiple of the 4 devices"),
        (["--config.nothing=1"], "unknown configuration field"),
    ):
        for code, _, stderr in on_two_hosts("train", *good, *more):
            errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
            assert code == 2 and len(errors) == 1 and message in errors[0] and "Traceback" not in stderr, stderr
        assert not run.exists()
    configuration = ROOT / "configs" / "experiment.py"
    experiment = [f"--config={configuration}:test", "--config.data.path=phantom", f"--workdir={run}"]
    for code, _, stderr in on_two_hosts("train", *experiment):
        assert code == 2 and "an experiment runs on one host" in stderr
    uneven = {1: {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}}
    for code, _, stderr in on_two_hosts("train", *good, settings=uneven):
        assert code == 2 and "the hosts have [2, 1] devices" in stderr, stderr
    assert not run.exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"JAX_PROCESS_ID": "1"}, "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES is not; set all of them or none"),
        ({"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2"}, "JAX_PROCESS_ID is not; set all of them"),
        ({"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"}, "JAX_PROCESS_ID=2"),
        ({"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "two", "JAX_PROCESS_ID": "0"}, "PROCESSES=two"),
        ({"JAX_COORDINATOR_ADDRESS": "a", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}, "ADDRESS=a must be"),
        ({"JAX_COORDINATOR_ADDRESS": "[::1]:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}, "cannot be reached"),
    ],
)  # fmt: skip
def test_incomplete_or_invalid_settings_are_reported_in_one_line(tmp_path, capsys, monkeypatch, settings, message):
    monkeypatch.setattr(hosts, "PATIENCE", 0)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert command_line.run(train.main, [*CLASSIFIER, f"--workdir={tmp_path / 'run'}"]) == 2
    stderr = capsys.readouterr().err.strip().splitlines()
    assert len(stderr) == 1 and stderr[0].startswith("error: ") and message in stderr[0], stderr


@pytest.mark.parametrize(
    ("settings", "num_hosts", "devices"),
    [
        ({}, 0, None),
        ({"JAX_COORDINATOR_ADDRESS": "node1:5", "JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"}, 0, None),
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, 0, None),  # the batch script itself
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "4"}, 4, []),  # a task takes all devices of its node
        ({"SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NUM_NODES": "2"}, 8, None),  # JAX gives each task one
        ({"TPU_WORKER_HOSTNAMES": "a,b,c"}, 3, None),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, 0, None),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "MEGASCALE_NUM_SLICES": "2"}, 4, None),
    ],
)  # fmt: skip
def test_hosts_join_only_if_the_environment_names_several(monkeypatch, settings, num_hosts, devices):
    asked = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **arguments: asked.append(arguments))
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    hosts.join()
    assert bool(asked) == bool(num_hosts)
    if num_hosts:
        assert asked[0].get("local_device_ids") == devices


@pytest.mark.parametrize("size", [0, 1, 1000, 1025, 5000])
def test_bytes_are_sent_in_pieces_of_few_sizes(monkeypatch, size):
    sent = []
    monkeypatch.setattr(hosts, "_CHUNK", 2048)
    monkeypatch.setattr(
        hosts.multihost_utils, "broadcast_one_to_all", lambda tree, is_source: sent.append(tree.shape) or tree
    )
    message = np.random.default_rng(0).bytes(size)
    assert hosts._broadcast(message) == message
    assert {shape for shape in sent if shape} <= {(1024,), (2048,)}
