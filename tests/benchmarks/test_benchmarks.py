import importlib
import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dim_jax.cli import command_line
from dim_jax.data import phantom
from dim_jax.data.preparation import prepare_dataset

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))
import gpu  # noqa: E402
import paired  # noqa: E402
import processes  # noqa: E402
import records  # noqa: E402
import roofline  # noqa: E402

TINY = ["--image-size=32", "--width=0.1", "--batch-size=2", "--rounds=1", "--steps=2", "--platform=cpu"]
# The suite's flags; of two such ones the last counts.
ON_ONE_DEVICE = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=1"
NOT_NEGATIVE = st.floats(1e-6, 1e6)


def benchmark(program, *arguments):
    """Runs a benchmark as a user would, on one device, with the suite's quick compilation."""
    surroundings = {**os.environ, "XLA_FLAGS": ON_ONE_DEVICE}
    paths = [str(BENCHMARKS.parent), surroundings.get("PYTHONPATH", "")]
    surroundings["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    command = [sys.executable, str(BENCHMARKS / program), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=surroundings)


def error_line(program, arguments, capsys):
    """The one line that a benchmark ends with, in this process: a process of its own takes a second to start."""
    module = importlib.import_module(program.removesuffix(".py"))
    assert command_line.run(module.main, arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


@pytest.mark.torch
@pytest.mark.skipif(find_spec("torch") is None, reason="needs PyTorch")
@pytest.mark.parametrize(
    ("program", "options"),
    [
        ("train_step.py", ["--stages=40", "--loss=cross_entropy"]),
        ("inference.py", ["--stages=40"]),
        ("inference.py", ["--model=efficientnet_lite0", "--width=1"]),
        ("gan_step.py", ["--image-size=64", "--width=0.02", "--reconstruction=none"]),
        ("diffusion_step.py", []),
    ],
)
def test_both_sides_are_measured_in_turn(program, options, tmp_path):
    out = tmp_path / "out.json"
    done = benchmark(program, *TINY, *options, f"--json={out}")
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert list(result["sides"]) == ["ours", "PyTorch eager"]
    for side in result["sides"].values():
        assert len(side["seconds_per_step"]) == 1
        assert side["images_per_second"]["median"] == pytest.approx(2 / side["seconds_per_step"][0])
        assert side["first_turn_seconds"] > 0 and side["start_seconds"] > 0 and side["about"]["platform"] == "cpu"
    ours, theirs = (side["seconds_per_step"][0] for side in result["sides"].values())
    assert result["time_ratio"]["median"] == pytest.approx(ours / theirs)
    assert result["options"]["batch_size"] == 2 and result["environment"]["threads"] >= 1
    for word in ("ours", "PyTorch eager", "images/s", "time of ours / PyTorch", result["environment"]["date"]):
        assert word in done.stdout


def test_both_backends_are_measured_in_training_and_alone(tmp_path):
    pytest.importorskip("tensorflow")
    data, out = (
        prepare_dataset("phantom", tmp_path / "data", image_size=32, scale=0.02, pack="squash"),
        tmp_path / "out.json",
    )
    small = ["--image-size=32", "--width=0.1", "--stages=40", "--batch-size=4", "--steps-per-dispatch=2"]
    done = benchmark("input_pipeline.py", f"--data={data}", *small, f"--json={out}")
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())["backends"]
    for backend in ("tf", "resident"):
        (measured,) = result[backend]
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
def test_bad_options_of_the_input_pipeline_are_told_in_one_line(arguments, message, capsys):
    assert message in error_line("input_pipeline.py", arguments, capsys)


@pytest.mark.parametrize(
    "program",
    [
        "train_step.py", "inference.py", "input_pipeline.py", "gan_step.py", "roofline.py", "decoding.py", "start.py",
        "ahead_of_time.py", "near_duplicates.py",
    ],
)  # fmt: skip
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
        ("train_step.py", ["--stages="], "--stages: the value is empty"),
        ("train_step.py", ["--model=efficientnet_lite0", "--width=0.5"], "leave out --width"),
        ("train_step.py", ["--threads=100000"], "--threads=100000"),
        ("train_step.py", ["--steps=3", "--steps-per-dispatch=2"], "--steps-per-dispatch=2"),
        ("train_step.py", ["--steps-per-dispatch=0"], "--steps-per-dispatch=0"),
        ("train_step.py", ["--dtype=int8"], "--dtype"),
        ("gan_step.py", ["--image-size=100"], "--image-size=100"),
        ("diffusion_step.py", ["--image-size=60"], "--image-size=60 must be a multiple of 8"),
        ("gan_step.py", ["--stages=40"], "--stages=40"),
        ("gan_step.py", ["--rounds=0"], "--rounds=0"),
        ("roofline.py", ["--network=gcgan", "--image-size=100"], "--image-size=100"),
        ("roofline.py", ["--stages=8,x"], "--stages=8,x"),
        ("decoding.py", ["--picture=2048"], "--picture=2048"),
        ("decoding.py", ["--readers=tf,numpy"], "numpy"),
        ("decoding.py", ["--repeats=0"], "--repeats=0"),
        ("start.py", ["--commands=train,learn"], "learn"),
        ("start.py", ["--rounds=0"], "--rounds=0"),
        ("near_duplicates.py", ["absent"], "absent: no such folder"),
        ("near_duplicates.py", [".", "--copies=0"], "--copies=0"),
        ("ahead_of_time.py", ["--target=k80"], "--target=k80"),
        ("ahead_of_time.py", ["--target=h100", "--batch-size=0"], "--batch-size=0"),
        ("ahead_of_time.py", ["--target=h100", "--stages=8,x"], "--stages=8,x"),
        ("ahead_of_time.py", ["--target=v5e:2x4", "--model=gan", "--image-size=100"], "--image-size=100"),
        ("gpu.py", ["out", "--budget=0"], "--budget=0"),
        ("gpu.py", [], "OUT"),
    ],
)
def test_bad_options_are_told_in_one_line(program, arguments, message, capsys):
    assert message in error_line(program, arguments, capsys)


# JAX is imported where it is used: the workers of other tests import this file too.


def test_parts_of_a_network_are_found_with_all_of_its_work():
    import flops
    import jax
    import jax.numpy as jnp

    from dim_jax.models.lrf_cnn import LRFCNN

    model = LRFCNN(num_classes=5, stem_width=16, stages=((16,), (24,)), attention_width=8)
    images = jax.ShapeDtypeStruct((2, 48, 48, 3), jnp.float32)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2))
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    variables = {name: variables[name] for name in ("params", "batch_stats")}
    whole = roofline.Part(("lrf_cnn",), model, variables, (images, True, keys))
    parts = roofline.parts_of(whole, (LRFCNN,))
    names = [part.path[-1] for part in parts]
    assert names == [
        *("stem", "stem_norm", "block0", "block1"), *("attention_hidden", "attention_gate", "head"), "lrf_cnn"
    ]  # fmt: skip
    of_part = {
        part.path[-1]: flops.of_program(
            lambda variables, arrays, part=part: part.apply(variables, arrays, False), part.variables, part.shapes()
        )
        for part in parts
    }
    of_whole = of_part.pop("lrf_cnn")
    # Activations and poolings are between the parts.
    assert 0.97 * of_whole < sum(of_part.values()) < of_whole


def test_the_bound_is_the_larger_of_operations_and_bytes():
    import jax
    import jax.numpy as jnp

    from dim_jax.models.layers import Linear

    x = jax.ShapeDtypeStruct((30, 40), jnp.float32)
    layer = Linear(50)
    part = roofline.Part(("linear",), layer, layer.init(jax.random.key(0), jnp.zeros(x.shape)), (x,))
    options = {"rounds": 2, "dtype": "bfloat16", "network": "gcgan"}
    moved = 2 * (30 * 40 + 40 * 50 + 50 + 30 * 50)
    for bytes_per_second, bound_by in ((1e3, "bytes"), (1e12, "operations")):
        reached = {"flops_per_second": 1e9, "bytes_per_second": bytes_per_second}
        forward, both = roofline.measure([part], options, reached)
        assert forward["pass"] == "forward" and both["pass"] == "both" and forward["bound_by"] == bound_by
        assert forward["bytes"] == moved and 2 * 30 * 40 * 50 <= forward["flops"] <= 2 * 30 * 41 * 50
        assert both["flops"] >= 2 * 2 * 30 * 40 * 50
        seconds = {"bytes": moved / bytes_per_second, "operations": forward["flops"] / 1e9}[bound_by]
        assert forward["bound_milliseconds"] == pytest.approx(1000 * seconds)
        assert forward["share_of_bound"] == pytest.approx(1000 * seconds / forward["milliseconds"]["median"])


def test_decoding_is_measured_beside_libjpeg_turbo(tmp_path):
    pytest.importorskip("tensorflow")
    out = tmp_path / "out.json"
    small = ["--picture=96x64", "--pictures=12", "--repeats=1", "--rounds=1", "--image-size=32"]
    done = benchmark("decoding.py", *small, f"--json={out}")
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())["readers"]
    references = ["libjpeg-turbo alone", "libjpeg-turbo, then Pillow's filter", "libjpeg-turbo alone, reduced"]
    assert list(result) == [*references, "tf", "resident"]
    alone = result["libjpeg-turbo alone"]["images_per_second"]["median"]
    for name, row in result.items():
        assert row["share_of_libjpeg_turbo"]["median"] == pytest.approx(row["images_per_second"]["median"] / alone)
        assert name in done.stdout


def test_joined_pairs_are_compared_with_a_list_and_copies_are_searched(tmp_path, capsys):
    slides, out, judged = tmp_path / "slides", tmp_path / "out.json", tmp_path / "pairs.csv"
    for number, label in enumerate(phantom.CLASSES):
        picture = Image.fromarray(phantom.draw(phantom.PhantomImage(label, "case0001", 1), 64))
        (slides / label).mkdir(parents=True)
        picture.save(slides / label / f"{number}.png")
        picture.transpose(Image.Transpose.ROTATE_90).save(slides / label / f"{number}-turned.png")
    first, second = phantom.CLASSES[:2]
    lines = ["first,second,tissue", f"{first}/0.png,{first}/0-turned.png,same", f"{first}/0.png,{second}/1.png,other"]
    judged.write_text("\n".join(lines))
    module = importlib.import_module("near_duplicates")
    arguments = [str(slides), f"--judged={judged}", "--copies=2", f"--json={out}"]
    assert command_line.run(module.main, arguments) == 0
    pairs = json.loads(out.read_text())["pairs"]
    assert (pairs["joined"], pairs["right"], pairs["wrong"], len(pairs["not_judged"])) == (
        len(phantom.CLASSES),
        1,
        0,
        4,
    )
    assert (pairs["judged_same_and_joined"], pairs["judged_other_and_joined"]) == (1, 0)
    assert "turned or mirrored alone" in capsys.readouterr().out


def test_a_second_start_finds_the_first_ones_programs(tmp_path):
    out = tmp_path / "out.json"
    config = f"--config={BENCHMARKS.parent / 'configs' / 'classifier.py'}:test"
    small = ["--image-size=32", "--rounds=1", "--commands=train", "--set=model.stages=((8,),)", "--set=model.width=1.0"]
    done = benchmark("start.py", config, *small, f"--json={out}")
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())["seconds"]
    for name in ("train --help", "imports", "cold start to first step", "warm start to first step"):
        assert len(result[name]) == 1 and result[name][0] > 0 and name in done.stdout
    for kind in ("cold", "warm"):
        (whole,), (dispatch,) = result[f"{kind} start to first step"], result[f"{kind} start, of that dispatch"]
        (step,), (began,) = result[f"{kind} second step"], result[f"{kind} start until the first step began"]
        assert step < dispatch < whole and began == pytest.approx(whole - step)


def test_a_run_that_cannot_start_is_reported(tmp_path):
    done = benchmark("start.py", f"--data={tmp_path}", "--rounds=1", "--commands=train")
    assert done.returncode == 2
    assert done.stderr.startswith("error: the run ended before its second step: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("row", [*gpu.rows(), *gpu.tiny_rows()], ids=lambda row: row.name)
def test_the_options_of_every_gpu_row_are_known(row, monkeypatch):
    if not row.program:
        return
    parsed = {}
    monkeypatch.setattr(paired, "report", lambda benchmark, title, builds, options: parsed.update(options))
    module = importlib.import_module(row.program.removesuffix(".py"))
    if row.program == "roofline.py":
        parsed |= module.parse(row.arguments)
    else:
        module.main(row.arguments)
        assert parsed["sides"] == row.side
    assert f"batch {parsed['batch_size']}" in row.name or row.name.endswith(("parts", "ours", "torch"))


def one_side(benchmark, batch_size, images_per_second, dtype="bfloat16", **work):
    speed = records.spread([images_per_second])
    step = records.spread([1000 * batch_size / images_per_second])
    side = {"images_per_second": speed, "milliseconds_per_step": step, "about": {"device": "toy"}}
    options = {"image_size": 299, "batch_size": batch_size, "dtype": dtype}
    return {"benchmark": benchmark, "options": options, "sides": {"a": side}, "seconds": 1.0, **work}


@pytest.fixture
def gpu_rows(monkeypatch):
    """Rows that are not run, and a list of those that would have been."""
    measured_rows = {
        "W, ours, batch 4": one_side("w", 4, 800, side="ours", flops_per_step=4e9, peak_flops_per_second=1e12),
        "W, ours, batch 8": one_side("w", 8, 900, side="ours", flops_per_step=8e9, peak_flops_per_second=1e12),
        "W, PyTorch, batch 4": one_side("w", 4, 200, side="torch"),
    }
    started = []

    def run(row, log, seconds):
        started.append(row.name)
        if row.name not in measured_rows:
            raise RuntimeError("no memory")
        return measured_rows[row.name]

    monkeypatch.setattr(gpu, "run", run)
    names = ["never works", *measured_rows]
    return [gpu.Row(name, 10, "ours", "w.py", ()) for name in names], started


def test_a_finished_gpu_row_is_skipped_and_a_failed_one_tried_last(gpu_rows, tmp_path):
    rows, started = gpu_rows
    gpu.measure(rows[:2], tmp_path, 100)
    assert started == ["never works", "W, ours, batch 4"]
    measurements = gpu.measure(rows, tmp_path, 100)
    assert started[2:] == ["W, ours, batch 8", "W, PyTorch, batch 4", "never works"]
    assert measurements == json.loads((tmp_path / "measured.json").read_text())
    assert measurements["failed"] == {"never works": "no memory"} and len(measurements["rows"]) == 3


def test_no_gpu_row_starts_that_may_outlast_the_budget(gpu_rows, tmp_path):
    rows, started = gpu_rows
    assert gpu.measure(rows, tmp_path, 9.9) == {"rows": {}, "failed": {}} and not started


def test_gpu_rows_of_pytorch_are_credited_with_our_work_and_compared(gpu_rows, tmp_path):
    rows, _ = gpu_rows
    shown = gpu.table(gpu.measure(rows, tmp_path, 100))
    assert (tmp_path / "table.txt").read_text() == shown + "\n"
    assert "W, PyTorch, batch 4: ours at its best, batch 8, does 4.500 times as many images per second" in shown
    assert "W, PyTorch, batch 4: ours with the same options, 4.000 times" in shown
    (line,) = [line for line in shown.splitlines() if line.startswith("W, PyTorch, batch 4 ")]
    assert line.split()[-3:] == ["4", "0.2", "20.0%"]
    assert "never works FAILED:\nno memory" in shown


def test_a_gpu_row_that_fails_or_outlasts_its_time_is_reported(tmp_path):
    log = tmp_path / "log.txt"
    with pytest.raises(RuntimeError, match="--rounds=0"):
        gpu.run(gpu.Row("bad", 10, "ours", "inference.py", ("--rounds=0",)), log, 60)
    with pytest.raises(RuntimeError, match="ended after 0 s: no time was left"):
        gpu.run(gpu.Row("slow", 10, "ours", "inference.py", ("--platform=cpu",)), log, 0.1)
    assert "== bad: " in log.read_text() and "== slow: " in log.read_text()


@pytest.fixture
def without(tmp_path, monkeypatch):
    """Processes that start from now on find neither TensorFlow, nor clu, nor ml_collections, nor dim_jax."""
    for name in ("tensorflow", "clu", "ml_collections"):
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('{name} is blocked')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHON", sys.executable)
    monkeypatch.setenv("XLA_FLAGS", ON_ONE_DEVICE)


def test_a_gpu_row_needs_neither_tensorflow_nor_clu_nor_ml_collections(without, tmp_path):
    (row,) = [row for row in gpu.tiny_rows() if row.side == "ours" and row.program == "inference.py"]
    result = gpu.run(row, tmp_path / "log.txt", 600)
    (side,) = result["sides"].values()
    assert result["flops_per_step"] > 0 and 0 < side["share_of_peak"]["median"] < 1
    assert row.name in gpu.table({"rows": {row.name: result}, "failed": {}})


@pytest.mark.slow
def test_all_tiny_gpu_rows_run_from_the_script(without, tmp_path):
    command = ["bash", str(BENCHMARKS.parent / "launch" / "measure_gpu.sh"), "out", "--tiny", "--sides=ours"]
    done = subprocess.run([*command, "--budget=3000"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    measurements = json.loads((tmp_path / "out" / "measured.json").read_text())
    assert not measurements["failed"], measurements["failed"]
    assert list(measurements["rows"]) == [row.name for row in gpu.tiny_rows() if row.side == "ours"]
    for row in measurements["rows"].values():
        if "sides" in row:
            (side,) = row["sides"].values()
            assert row["flops_per_step"] > 0 and 0 < side["share_of_peak"]["median"] < 1
        else:
            assert {part["pass"] for part in row["parts"]} == {"forward", "both"}
    assert (tmp_path / "out" / "table.txt").read_text().strip() in done.stdout


def counting(options):
    """A side that does nothing but note its turns in a file."""

    def turn(steps):
        with open(options["notes"], "a", encoding="utf-8") as file:
            file.write(f"{options['mark']}{steps} ")

    return processes.Side(turn, {"platform": "cpu"})


def counting_b(options):
    return counting({**options, "mark": "b"})


def gauging(options):
    return counting(options)._replace(gauge=lambda: {"flops_per_step": 6e9, "peak_flops_per_second": 1e12})


def out_of_order():
    raise RuntimeError("no such analysis here")


def misgauging(options):
    return counting(options)._replace(gauge=out_of_order)


def busy(options):
    def turn(steps):
        until = time.perf_counter() + 0.5
        while time.perf_counter() < until:
            pass

    return processes.Side(turn, {"platform": "cpu"})


def failing(options):
    raise RuntimeError("no memory\nfor this")


def elsewhere(options):
    return processes.Side(lambda steps: None, {"platform": "gpu"})


def dying(options):
    os._exit(1)


@pytest.fixture
def options(tmp_path):
    return {"rounds": 3, "steps": 4, "batch_size": 5, "threads": 1, "notes": str(tmp_path / "notes"), "mark": "a"}


def test_sides_take_turns_after_a_warm_up(options):
    result = paired.measure({"a": counting, "b": counting_b}, options)
    assert Path(options["notes"]).read_text().split() == ["a4", "b4"] * 5
    for side in result["sides"].values():
        assert len(side["seconds_per_step"]) == 3
    assert result["time_ratio"]["min"] <= result["time_ratio"]["median"] <= result["time_ratio"]["max"]
    shown = paired.table("title", result, records.environment(options))
    assert shown.startswith("title\n") and "1 threads" in shown


@pytest.mark.parametrize(("others", "is_disturbed"), [(0.1, False), (1.5, True), (None, False)])
def test_a_busy_machine_is_reported(others, is_disturbed, options):
    result = {**paired.measure({"a": counting}, options), "cores_used_by_others": others}
    shown = paired.table("title", result, {**records.environment(options), "cores": 2})
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
    result = paired.measure({"a": gauging, "b": counting_b}, options)
    assert result["flops_per_step"] == 6e9
    for side in result["sides"].values():
        fastest = 6e9 / min(side["seconds_per_step"])
        assert side["flops_per_second"]["max"] == pytest.approx(fastest)
        assert side["share_of_peak"]["max"] == pytest.approx(fastest / 1e12)
    shown = paired.table("title", result, records.environment(options))
    assert "6 GFLOP per step" in shown and "1 TFLOP/s in a large matrix product" in shown and "of peak" in shown


def test_no_work_is_claimed_where_no_side_gauges(options):
    result = paired.measure({"b": counting_b}, options)
    assert "flops_per_step" not in result and "share_of_peak" not in result["sides"]["b"]
    assert "GFLOP per step" not in paired.table("title", result, records.environment(options))


def test_times_are_reported_where_gauging_fails(options):
    result = paired.measure({"a": misgauging}, options)
    assert len(result["sides"]["a"]["seconds_per_step"]) == 3
    assert "neither work nor peak is known: a: RuntimeError: no such analysis here" in paired.table(
        "title", result, records.environment(options)
    )


def test_operations_of_a_matrix_product_are_two_per_product():
    import flops
    import jax
    import jax.numpy as jnp

    x, y = jax.ShapeDtypeStruct((30, 40), jnp.float32), jax.ShapeDtypeStruct((40, 50), jnp.float32)
    assert flops.of_program(jnp.matmul, x, y) == 2 * 30 * 40 * 50


def test_gradients_of_a_convolution_count_as_much_as_itself_each():
    """On CPU the kernel's gradient is a loop, whose body counts once."""
    import flops
    import jax
    import jax.numpy as jnp

    from dim_jax.models.kernels.convolutions import convolution

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
    [
        (failing, "b: RuntimeError: no memory$"),
        (dying, "b ended without an error message"),
        (elsewhere, "same kind of device"),
    ],
)
def test_a_side_that_fails_is_reported_by_name(build, message, options):
    with pytest.raises(ValueError, match=message):
        paired.measure({"a": counting, "b": build}, options)


@given(st.lists(NOT_NEGATIVE, min_size=1, max_size=20))
def test_spread_is_ordered_and_does_not_depend_on_the_order(values):
    result = records.spread(values)
    assert result == records.spread(sorted(values))
    assert result["min"] <= result["quartile_1"] <= result["median"] <= result["quartile_3"] <= result["max"]
    assert {result["min"], result["max"]} <= set(values)


def test_spread_of_known_values():
    expected = {"median": 3, "quartile_1": 2, "quartile_3": 4, "min": 1, "max": 5}
    assert records.spread([5, 1, 4, 2, 3]) == expected


@pytest.mark.parametrize(("asked", "names"), [("both", ["ours", "PyTorch eager"]), ("ours", ["ours"])])
def test_sides_are_those_asked_for(asked, names):
    chosen = {"torch_mode": "eager", "channels_last": False, "sides": asked}
    assert list(paired.sides(chosen, counting, counting_b)) == names


def test_a_file_that_no_benchmark_wrote_is_not_overwritten(tmp_path, capsys):
    out = tmp_path / "notes.json"
    out.write_text('{"mine": 1}')
    error = error_line("decoding.py", [f"--json={out}"], capsys)
    assert "would be overwritten, which no benchmark wrote" in error and out.read_text() == '{"mine": 1}'
    out.write_text('{"benchmark": "decoding", "options": {}}')
    assert importlib.import_module("records").json_path(str(out)) == str(out)
