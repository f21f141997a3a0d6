"""Broken and odd inputs, each made by a small function: which command gets it, and what must come of it.

Every function gets an empty folder and a World of whole things, makes its input in the folder, and returns a Case.
docs/reliability.md tells the groups; files of weights have corpora of their own in test_torch_files.py and
test_convert.py.
"""

# Each module adds its part to CORPUS.
from hostile_inputs import (  # noqa: F401
    command_lines,
    configurations,
    folders,
    odd_images,
    pools,
    prepared_data,
    run_directories,
    tables,
    weights,
)
from hostile_inputs.corpus import (  # noqa: F401
    CORPUS,
    EVIL,
    Case,
    World,
    assert_harmless,
    renamed,
    write_pictures,
)
