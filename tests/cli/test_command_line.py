"""Messages, errors and arguments shared by all commands."""

import argparse
import io
import logging

import pytest
from hostile_inputs import EVIL, assert_harmless
from hypothesis import given
from hypothesis import strategies as st

from dim_jax.cli import command_line


@given(st.text() | st.sampled_from(EVIL) | st.text(st.characters(categories=["Cc", "Cf", "Cs", "Zl", "Zp"])))
def test_printed_text_can_be_encoded_and_has_no_control_characters(text):
    stream = io.StringIO()
    command_line.say(text, file=stream)
    assert_harmless(stream.getvalue())
    assert stream.getvalue().count("\n") == text.count("\n") + 1
    stream.getvalue().encode("utf-8")
    assert "\u202e" not in stream.getvalue()


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"])))
def test_ordinary_text_is_printed_unchanged(text):
    assert command_line.printable(text) == text


@pytest.mark.parametrize("evil", EVIL)
def test_an_error_is_one_line_whatever_names_it_has(evil, capfd):
    def fail(_):
        raise ValueError(f"{evil * 10_000} is wrong; mend it")

    assert command_line.run(fail, []) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert_harmless(line)
    assert line.startswith("error: ") and line.endswith("mend it") and len(line) < 5 * command_line.LONGEST_ERROR


def test_a_log_line_stays_one_line():
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(command_line.LogFormatter("%(levelname)s %(message)s"))
    handler.handle(logging.makeLogRecord({"levelname": "INFO", "msg": "class %s", "args": ("a\nERROR \x1b[2J",)}))
    assert stream.getvalue() == "INFO class a\\nERROR \\x1b[2J\n"


@pytest.mark.parametrize("text", ["", "  ", "\udcff"])
def test_an_empty_or_undecodable_path_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError):
        command_line.path(text)
