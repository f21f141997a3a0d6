import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dim_jax.models.convolutions import convolution
from dim_jax.prepare import prepare

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))
import flops  # noqa: E402
import paired  # noqa: E402

TINY = ["--image-size=32", "--width=0.1", "--batch-size=2", "--rounds=1", "--steps=2", "--platform=cpu"]
NOT_NEGATIVE = st.floats(1e-6, 1e6)


def benchmark(program, *arguments):
    """Runs a benchmark as a user would: one device, no flags of the test suite."""
    surroundings = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    paths = [str(BENCHMARKS.parent), surroundings.get("PYTHONPATH", "")]
    surroundings["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    command = [sys.executable, str(BENCHMARKS / program), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=surroundings)


@pytest.mark.skipif(find_spec("torch") is None, reason="needs PyTorch")
@pytest.mark.parametrize(
    ("program", "options"),
    [
        ("train_step.py", ["--stages=40", "--loss=cross_entropy"]),
        ("inference.py", ["--stages=40"]),
        ("gan_step.py", ["--image-size=64", "--width=0.02", "--reconstruction=none"]),
    ],
)
def test_both_sides_are_measured_in_turn(program, options, tmp_path):
    out = tmp_path / "out.json"
    done = benchmark(program, *TINY, *options, f"--json={out}")
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert list(found["sides"]) == ["ours", "PyTorch eager"]
    for side in found["sides"].values():
        assert len(side["seconds_per_step"]) == 1
        assert side["images_per_second"]["median"] == pytest.approx(2 / side["seconds_per_step"][0])
        assert side["first_turn_seconds"] > 0 and side["start_seconds"] > 0 and side["about"]["platform"] == "cpu"
    ours, theirs = (side["seconds_per_step"][0] for side in found["sides"].values())
    assert found["time_ratio"]["median"] == pytest.approx(ours / theirs)
    assert found["options"]["batch_size"] == 2 and found["environment"]["threads"] >= 1
    for word in ("ours", "PyTorch eager", "images/s", "time of ours / PyTorch", found["environment"]["date"]):
        assert word in done.stdout


def test_both_backends_are_measured_in_training_and_alone(tmp_path):
    pytest.importorskip("tensorflow")
    data, out = prepare("phantom", tmp_path / "data", image_size=32, scale=0.02, pack="squash"), tmp_path / "out.json"
    small = ["--image-size=32", "--width=0.1", "--stages=40", "--batch-size=4", "--steps-per-dispatch=2"]
    done = benchmark("input_pipeline.py", f"--data={data}", *small, f"--json={out}")
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())["backends"]
    for backend in ("tf", "resident"):
        (measured,) = found[backend]
        for epochs in ("first_epoch", "later_epochs"):
            assert 0 <= measured["training"][epochs]["data_wait_share"] < 1
            assert measured["training"][epochs]["images_per_second"] > 0
        assert measured["alone"]["again"] > 0 and backend in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data=nowhere"], "nowhere"),
        (["--data=nowhere", "--backends=tf,numpy"], "numpy"),
        (["--data=nowhere", "--epochs=1"], "--epochs=1"),
        ([], "--data"),
    ],
)
def test_bad_options_of_the_input_pipeline_are_told_in_one_line(arguments, message):
    done = benchmark("input_pipeline.py", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and message in done.stderr


@pytest.mark.parametrize("program", ["train_step.py", "inference.py", "input_pipeline.py", "gan_step.py"])
def test_help_shows_examples_and_loads_nothing_heavy(program):
    code = (
        f"import sys, runpy; sys.argv = ['{program}', '--help']; sys.path.insert(0, {str(BENCHMARKS)!r})\n"
        "try:\n"
        f"    runpy.run_path({str(BENCHMARKS / program)!r}, run_name='__main__')\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code\n"
        "heavy = {'jax', 'torch', 'tensorflow'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"python benchmarks/{program}" in done.stdout.split("examples:")[1]


@pytest.mark.parametrize(
    ("program", "arguments", "message"),
    [
        ("train_step.py", ["--rounds=0"], "--rounds=0"),
        ("train_step.py", ["--width=0"], "--width=0.0"),
        ("train_step.py", ["--stages=8,x"], "--stages=8,x"),
        ("train_step.py", ["--stages="], "--stages="),
        ("train_step.py", ["--threads=100000"], "--threads=100000"),
        ("train_step.py", ["--steps=3", "--steps-per-dispatch=2"], "--steps-per-dispatch=2"),
        ("train_step.py", ["--steps-per-dispatch=0"], "--steps-per-dispatch=0"),
        ("train_step.py", ["--dtype=int8"], "--dtype"),
        ("gan_step.py", ["--image-size=100"], "--image-size=100"),
        ("gan_step.py", ["--stages=40"], "--stages=40"),
        ("gan_step.py", ["--rounds=0"], "--rounds=0"),
    ],
)
def test_bad_options_are_told_in_one_line(program, arguments, message):
    done = benchmark(program, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and message in done.stderr


def counting(options):
    """A side that does nothing but note its turns in a file."""

    def turn(steps):
        with open(options["notes"], "a", encoding="utf-8") as file:
            file.write(f"{options['mark']}{steps} ")

    return paired.Side(turn, {"platform": "cpu"})


def counting_b(options):
    return counting({**options, "mark": "b"})


def gauging(options):
    return counting(options)._replace(gauge=lambda: {"flops_per_step": 6e9, "peak_flops_per_second": 1e12})


def busy(options):
    def turn(steps):
        until = time.perf_counter() + 0.5
        while time.perf_counter() < until:
            pass

    return paired.Side(turn, {"platform": "cpu"})


def failing(options):
    raise RuntimeError("no memory\nfor this")


def elsewhere(options):
    return paired.Side(lambda steps: None, {"platform": "gpu"})


def dying(options):
    os._exit(1)


@pytest.fixture
def options(tmp_path, monkeypatch):
    monkeypatch.setattr(paired, "SETTLE_SECONDS", 0)
    return {"rounds": 3, "steps": 4, "batch_size": 5, "threads": 1, "notes": str(tmp_path / "notes"), "mark": "a"}


def test_sides_take_turns_after_a_warm_up(options):
    found = paired.measure({"a": counting, "b": counting_b}, options)
    assert Path(options["notes"]).read_text().split() == ["a4", "b4"] * 5
    for side in found["sides"].values():
        assert len(side["seconds_per_step"]) == 3
    assert found["time_ratio"]["min"] <= found["time_ratio"]["median"] <= found["time_ratio"]["max"]
    shown = paired.table("title", found, paired.environment(options))
    assert shown.startswith("title\n") and "1 threads" in shown


@pytest.mark.parametrize(("others", "is_disturbed"), [(0.1, False), (1.5, True), (None, False)])
def test_a_busy_machine_is_told(others, is_disturbed, options):
    found = {**paired.measure({"a": counting}, options), "cores_used_by_others": others}
    shown = paired.table("title", found, {**paired.environment(options), "cores": 2})
    assert ("DISTURBED" in shown) is is_disturbed and ("cores busy" in shown) is (others is not None)


def test_the_work_of_the_sides_is_not_taken_for_that_of_others(options, tmp_path):
    """Both counters in one: a busy loop beside the sides is seen, the same loop within a side is not."""
    options |= {"rounds": 2, "steps": 1}
    within = paired.measure({"a": busy}, options)["cores_used_by_others"]
    if within is None:
        pytest.skip("the kernel's counters are not there")
    beside = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        disturbed = paired.measure({"a": busy}, options)["cores_used_by_others"]
    finally:
        beside.kill()
        beside.wait()
    # Other tests and users may load the machine too, so only what must be there is asked for.
    assert within >= 0 and disturbed > 0.15


def test_both_sides_are_credited_with_the_same_work(options):
    found = paired.measure({"a": gauging, "b": counting_b}, options)
    assert found["flops_per_step"] == 6e9
    for side in found["sides"].values():
        fastest = 6e9 / min(side["seconds_per_step"])
        assert side["flops_per_second"]["max"] == pytest.approx(fastest)
        assert side["share_of_peak"]["max"] == pytest.approx(fastest / 1e12)
    shown = paired.table("title", found, paired.environment(options))
    assert "6 GFLOP per step" in shown and "1 TFLOP/s in a large matrix product" in shown and "of peak" in shown


def test_no_work_is_claimed_where_no_side_gauges(options):
    found = paired.measure({"b": counting_b}, options)
    assert "flops_per_step" not in found and "share_of_peak" not in found["sides"]["b"]
    assert "GFLOP per step" not in paired.table("title", found, paired.environment(options))


def test_operations_of_a_matrix_product_are_two_per_product():
    x, y = jax.ShapeDtypeStruct((30, 40), jnp.float32), jax.ShapeDtypeStruct((40, 50), jnp.float32)
    assert flops.of_program(jnp.matmul, x, y) == 2 * 30 * 40 * 50


def test_gradients_of_a_convolution_count_as_much_as_itself_each():
    """On CPU the kernel's gradient is a loop, whose body counts once."""
    x, kernel = jax.ShapeDtypeStruct((2, 12, 12, 8), jnp.float32), jax.ShapeDtypeStruct((3, 3, 8, 16), jnp.float32)
    # Along each side, one of three taps falls on the padding at either end.
    forward = 2 * 2 * (3 * 12 - 2) ** 2 * 8 * 16
    assert flops.of_program(convolution, x, kernel) == forward
    both = flops.of_program(jax.grad(lambda x, kernel: convolution(x, kernel).sum(), (0, 1)), x, kernel)
    assert 2 * forward <= both < 2.1 * forward


def test_one_side_alone_has_no_ratio(options):
    assert "time_ratio" not in paired.measure({"a": counting}, options)


@pytest.mark.parametrize(
    ("build", "message"),
    [(failing, "b: RuntimeError: no memory$"), (dying, "b ended without a word"), (elsewhere, "same kind of device")],
)
def test_a_side_that_fails_is_told_by_name(build, message, options):
    with pytest.raises(ValueError, match=message):
        paired.measure({"a": counting, "b": build}, options)


@given(st.lists(NOT_NEGATIVE, min_size=1, max_size=20))
def test_spread_is_ordered_and_does_not_depend_on_the_order(values):
    found = paired.spread(values)
    assert found == paired.spread(sorted(values))
    assert found["min"] <= found["quartile_1"] <= found["median"] <= found["quartile_3"] <= found["max"]
    assert {found["min"], found["max"]} <= set(values)


def test_spread_of_known_values():
    expected = {"median": 3, "quartile_1": 2, "quartile_3": 4, "min": 1, "max": 5}
    assert paired.spread([5, 1, 4, 2, 3]) == expected


@pytest.mark.parametrize(("asked", "names"), [("both", ["ours", "PyTorch eager"]), ("ours", ["ours"])])
def test_sides_are_those_asked_for(asked, names):
    chosen = {"torch_mode": "eager", "channels_last": False, "sides": asked}
    assert list(paired.sides(chosen, counting, counting_b)) == names
