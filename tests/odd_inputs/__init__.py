"""Odd inputs that look fine: each is read as what it means, warned about with names, or refused in one line.

`python tests/odd_inputs` prints a line for each, with its outcome; with names of groups or inputs, only for those.
"""

# Importing a module adds its inputs to ODD_INPUTS.
from odd_inputs import folders, images, outputs, runs, sources, tables  # noqa: F401
from odd_inputs.corpus import ODD_INPUTS  # noqa: F401
