"""Messages, errors and arguments shared by all commands."""

import argparse
import contextlib
import io
import json
import logging
import shlex

import numpy as np
import pytest
from hostile_inputs import EVIL, assert_harmless
from hypothesis import given
from hypothesis import strategies as st

from dim_jax.cli import command_line, errors


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


def test_the_next_command_can_be_pasted_whatever_the_names(capsys):
    command_line.say_next("train", "--config=classifier", "--config.data.path=my data/$(x) 'a'")
    line = capsys.readouterr().out.strip().removeprefix("next: ")
    assert shlex.split(line) == [
        "python", "-m", "dim_jax.train", "--config=classifier", "--config.data.path=my data/$(x) 'a'",
    ]  # fmt: skip


def test_a_log_line_stays_one_line():
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(command_line.LogFormatter("%(levelname)s %(message)s"))
    handler.handle(logging.makeLogRecord({"levelname": "INFO", "msg": "class %s", "args": ("a\nERROR \x1b[2J",)}))
    assert stream.getvalue() == "INFO class a\\nERROR \\x1b[2J\n"


def test_an_undecodable_path_is_refused():
    with pytest.raises(argparse.ArgumentTypeError):
        command_line.path("\udcff")


@pytest.mark.parametrize("arguments, words", [
    (["--exclude="], "argument --exclude: the value is empty"),
    (["--exclude=  "], "argument --exclude: the value is empty"),
    (["--exclude", ""], "the argument after --exclude is empty"),
    (["", "--exclude=a"], "the argument after the command is empty"),
    (["a", " "], "the argument after a is empty"),
])  # fmt: skip
def test_an_empty_value_is_no_absent_option(arguments, words):
    parser = command_line.parser("prepare", "", "")
    parser.add_argument("--exclude", default="")
    parser.add_argument("rest", nargs="*")
    with pytest.raises(ValueError, match=words):
        parser.parse_args(arguments)
    assert parser.parse_args([]).exclude == "" and parser.parse_args(["--exclude=a=", "b="]).exclude == "a="
    assert parser.parse_known_args(["--config.model.name="])[1] == ["--config.model.name="]


@pytest.mark.parametrize("text", [",", " , ,", '""'])
def test_a_list_without_names_is_refused(text):
    with pytest.raises(ValueError, match="has no names"):
        command_line.comma_separated(text)


def unpack():
    first, second = [1]
    return first, second


def raise_library_error():
    np.zeros((2, 3)) + np.zeros((3, 2))


def reported(error):
    def main(arguments):
        raise error

    return main


FAULTS = [
    lambda: 1 // 0,
    lambda: {}["missing"],
    lambda: [][0],
    lambda: None.missing,
    lambda: len(3),
    lambda: int("x"),
    lambda: next(iter(())),
    unpack,
    raise_library_error,
    lambda: json.loads("{"),
    lambda: 2.0**10000,
    lambda: np.array([1.0]).reshape(3),
]


@given(st.sampled_from(FAULTS), st.integers(0, 3))
def test_a_fault_of_the_program_is_a_trace_and_neither_divergence_nor_bad_input(fault, depth):
    def main(arguments, left=depth):
        return fault() if left == 0 else main(arguments, left - 1)

    stream = io.StringIO()
    with contextlib.redirect_stderr(stream):
        assert command_line.run(main, []) == command_line.FAULT == 70
    assert "Traceback" in stream.getvalue() and "error: " not in stream.getvalue().splitlines()[-1]
    assert stream.getvalue().splitlines()[-1].startswith("this is a fault of dim_jax")


@pytest.mark.parametrize(("error", "code", "words"), [
    (ValueError("--keep=0 must be at least 1"), 2, "error: --keep=0 must be"),
    (FileNotFoundError("no such file"), 2, "error: no such file"),
    (MemoryError("of 3 GB"), 2, "error: not enough memory"),
    (errors.Diverged("loss is not finite"), 1, "error: loss is not finite"),
    (FloatingPointError("underflow"), 70, "Traceback"),
    (KeyboardInterrupt("at step 3"), 75, "stopped at step 3"),
])  # fmt: skip
def test_every_kind_of_error_has_its_exit_code(error, code, words, capfd):
    assert command_line.run(reported(error), []) == code
    assert words in capfd.readouterr().err


def test_an_error_that_names_its_cause_is_one_line(capfd):
    def main(arguments):
        try:
            int("x")
        except ValueError as error:
            raise ValueError("--size=x must be a number") from error

    assert command_line.run(main, []) == 2
    assert capfd.readouterr().err == "error: --size=x must be a number\n"
    assert command_line.run(main, ["--debug"]) == 2
    assert "Traceback" in capfd.readouterr().err


@pytest.mark.parametrize("text, expected", [
    ("a, b", ["a", "b"]),
    ("a,", ["a", ""]),
    ('normal, "adenoma, low grade","x"', ["normal", "adenoma, low grade", "x"]),
    ('say ""hi"",b', ['say ""hi""', "b"]),
    ('"say ""hi""",b', ['say "hi"', "b"]),
    ("ade\u0301nome", ["ad\u00e9nome"]),
])  # fmt: skip
def test_names_may_be_quoted_and_are_composed(text, expected):
    assert command_line.names(text) == expected
    assert command_line.comma_separated(text) == [name for name in expected if name]


def test_an_open_quote_is_refused():
    with pytest.raises(ValueError, match="is not a list of names"):
        command_line.names('"a,b')
