#!/usr/bin/env bash
# Installs a wheel with the extra `onnx` into an empty environment outside the checkout, trains, exports and runs the export.
#   bash launch/check_wheel.sh WHEEL
#   PYTHON  interpreter (default python3; 3.11 or newer)
set -euo pipefail
unset PYTHONPATH  # a checkout on it would count as installed
wheel=$(realpath "$1")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv environment
python=$folder/environment/bin/python
"$python" -m pip install --quiet --upgrade pip
"$python" -m pip install --quiet "${wheel}[onnx]"
"$python" -m dim_jax.train --config=classifier:test --config.data.path=phantom --workdir=run
"$python" -m dim_jax.export run --to=onnx --out=model.onnx
"$python" - <<'PROGRAM'
import json
import pathlib

import dim_jax
import numpy as np
import onnxruntime

folder = pathlib.Path(dim_jax.__file__).parent
print("imported from", folder)
assert "environment" in folder.parts, "that is not the wheel"
record = json.loads(pathlib.Path("model.onnx.json").read_text())
side = record["inputs"][0]["shape"][1]
(shares,) = onnxruntime.InferenceSession("model.onnx").run(None, {"images": np.zeros((2, side, side, 3), np.uint8)})
assert shares.shape == (2, len(record["classes"])) and np.allclose(shares.sum(1), 1)
print(dict(zip(record["classes"], shares[0].round(4).tolist())))
PROGRAM
