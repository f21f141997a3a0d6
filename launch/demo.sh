#!/usr/bin/env bash
# A whole experiment on synthetic tissue: environment, data, GANs, selections, classifiers, statistics, one report.
# Minutes on two CPU cores; run again, it resumes.
#   bash launch/demo.sh [FOLDER]      everything is written under FOLDER (default runs/demo)
set -euo pipefail
. "$(dirname "$0")/environment.sh"
folder=${1:-runs/demo}
python -m dim_jax.train --config=configs/experiment.py:demo --workdir="$folder"
echo "data report: $folder/phantom/data/data_report.txt"
echo "report:      $folder/report.html"
