#!/usr/bin/env bash
# A whole experiment on synthetic tissue: environment, data, generated images, selection, classifiers, statistics, page.
# Minutes on two CPU cores; run again, it resumes.
#   bash launch/demo.sh [FOLDER]      everything is written under FOLDER (default runs/demo)
set -euo pipefail
. "$(dirname "$0")/environment.sh"
folder=${1:-runs/demo}
python -m dim_jax.train --config=configs/experiment.py:demo --workdir="$folder" --brief
cat <<TEXT

Open $folder/report.html. Then, with your own images in one folder per class:
  1. check them and split them by patient:  python -m dim_jax.prepare IMAGES
  2. find out what to train on them:        python -m dim_jax.train --config=configs/experiment.py:recipe --config.data.path=IMAGES --workdir=runs/recipe --dry-run
  3. classify new images:                   python -m dim_jax.predict NEW_IMAGES --workdir=runs/recipe/IMAGES/recommended --out=predictions --adjust
TEXT
