"""Corpus of malformed and unusual inputs, each with the command that reads it and the expected outcome.

Each function gets an empty folder and a World of valid inputs, writes its input into the folder, and returns a Case.
docs/reliability.md lists the groups; test_torch_files.py and test_convert.py have corpora of weight files of their own.
"""

# Importing a module adds its cases to CORPUS.
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
