"""The training step compiled for an accelerator that is not there."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(("target", "package", "optimizer_launches", "most"), [
    # 1,130 launches and 170 copies in the formulations for CPU; the optimizer has 150 tensors.
    ("h100", "jax_cuda12_plugin", 55, {"loops": 0, "launches": 400, "copies": 2, "collectives": 0}),
    ("v5e:2x4", "libtpu", 210, {"loops": 0, "fusions": 640, "copies": 95, "collectives": 28}),
])  # fmt: skip
def test_two_blocks_on_an_accelerator_have_no_loops_and_few_kernels(
    target, package, optimizer_launches, most, tmp_path
):
    if find_spec(package) is None:
        pytest.skip("the compilers for accelerators are optional: pip install -e '.[ahead]'")
    out = tmp_path / "out.json"
    options = ["--stages=64/128", "--width=0.25", "--image-size=64", "--dtype=bfloat16", f"--json={out}"]
    command = [sys.executable, str(ROOT / "benchmarks" / "ahead_of_time.py"), f"--target={target}", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert not {name: result[name] for name, limit in most.items() if result[name] > limit}
    assert result["parts"]["optimizer"]["launches"] <= optimizer_launches
