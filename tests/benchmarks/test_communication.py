"""Reading the collectives of a compiled program, and the model of how long they take."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))
import communication  # noqa: E402

PROGRAM = """\
HloModule jit_step

%region_0.1 (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add.1 = f32[] add(%a, %b)
}

ENTRY %main (p: f32[64,2]) -> f32[64,2] {
  %p = f32[64,2]{1,0} parameter(0)
  %all-reduce.1 = f32[64,2]{1,0} all-reduce(%p), replica_groups={{0,1}}, to_apply=%region_0.1
  %other = (f32[3]{0}, bf16[5]{0}) all-reduce(%p, %p), control-predecessors={%all-reduce.1}, to_apply=%region_0.1
  %double = f32[64,2]{1,0} add(%all-reduce.1, %all-reduce.1)
  ROOT %all-gather-start.7 = f32[64,2]{1,0} all-gather-start(f32[64,2]{1,0} %double), dimensions={0}
}
"""


def test_collectives_are_counted_with_their_bytes_and_what_they_wait_for():
    operations = [(each.kind, each.size, each.depth) for each in communication.collectives(PROGRAM)]
    assert operations == [("all-reduce", 512, 0), ("all-reduce", 22, 0), ("all-gather", 512, 1)]


def test_large_sums_go_by_bandwidth_and_small_ones_by_latency():
    seconds = communication.reduction_seconds
    assert seconds(10**9, 1, 1e11, 1e-6) == 0
    assert seconds(10**9, 256, 1e11, 1e-6) == pytest.approx(2 * 10**9 / 1e11, rel=0.05)
    assert seconds(0, 256, 1e11, 1e-6) == pytest.approx(16e-6)
    assert seconds(0, 8, 1e11, 1e-6) < seconds(0, 9, 1e11, 1e-6)


def test_what_is_predicted_computes_as_long_on_any_number_of_devices_and_sends_longer():
    step = {"large_bytes": 10**8, "in_a_row": 100, "flops": 1e12}
    for machine in communication.MACHINES.values():
        predicted = [communication.step_seconds(step, machine, devices) for devices in communication.DEVICES]
        computing, sending = zip(*predicted, strict=True)
        assert len(set(computing)) == 1 and sending[0] == 0 and list(sending) == sorted(sending)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["classifier", "gan"])
def test_a_tiny_step_sends_its_gradients_once(model, tmp_path):
    out = tmp_path / "out.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "communication.py"), f"--model={model}", f"--json={out}"]
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT)}
    more = ["--width=0.02", "--image-size=64", "--batch-size=1"]
    done = subprocess.run([*command, *more], capture_output=True, text=True, check=False, env=surroundings)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert result["kinds"] == ["all-reduce"]
    assert result["parameter_bytes"] <= result["bytes"] < 1.5 * result["parameter_bytes"] + 2**20
    assert 1 < result["in_a_row"] <= result["collectives"]
    assert "predicted" in done.stdout
