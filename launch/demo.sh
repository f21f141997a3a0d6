#!/usr/bin/env bash
# From nothing to a report on drawn tissue: environment, data, training, evaluation. Minutes on two CPU cores.
#   bash launch/demo.sh [FOLDER]      everything is written under FOLDER (default runs/demo)
set -euo pipefail
. "$(dirname "$0")/environment.sh"
folder=${1:-runs/demo}
python -m dim_jax.prepare --source=phantom --out="$folder/data" --image-size=64 --scale=0.5
python -m dim_jax.train --config=configs/classifier.py:demo --config.data.path="$folder/data" --workdir="$folder/run"
python -m dim_jax.evaluate --workdir="$folder/run" --split=test
python -m dim_jax.report "$folder/run" --out="$folder/report.html"
echo "data report: $folder/data/data_report.txt"
echo "report:      $folder/report.html"
