# Sourced by the other scripts: creates a virtual environment with this package in $VENV (default .venv) and activates it.
#   PYTHON  interpreter to create it with (default python3; 3.11 or newer)
#   VENV    folder of the environment
#   EXTRAS  extras to install, for example test
# shellcheck shell=bash
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
python=${PYTHON:-python3}
venv=${VENV:-.venv}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "error: $python is too old; dim_jax needs Python 3.11 or newer, set PYTHON to one" >&2
  exit 2
fi
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
# shellcheck source=/dev/null
. "$venv/bin/activate"
python -m pip install --quiet --upgrade pip
python -m pip install --quiet --editable ".${EXTRAS:+[$EXTRAS]}"
