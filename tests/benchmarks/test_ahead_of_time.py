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
def test_two_blocks_on_an_h100_have_no_loops_and_few_launches(tmp_path):
    if find_spec("jax_cuda12_plugin") is None:
        pytest.skip("the compilers for accelerators are optional: pip install -e '.[ahead]'")
    out = tmp_path / "out.json"
    options = ["--stages=64/128", "--width=0.25", "--image-size=64", "--dtype=bfloat16", f"--json={out}"]
    command = [sys.executable, str(ROOT / "benchmarks" / "ahead_of_time.py"), "--target=h100", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert result["loops"] == 0 and result["collectives"] == 0
    assert result["launches"] <= 400 and result["copies"] <= 2  # 1,130 and 170 in the formulations for CPU
    assert result["parts"]["optimizer"]["launches"] <= 55  # for 150 tensors
