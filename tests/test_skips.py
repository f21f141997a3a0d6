"""Skips for reasons that tests/conftest.py doesn't list fail."""

from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py")
TESTS = """
import pytest

@pytest.mark.skipif(True, reason="no Chromium is installed")
def test_in_a_browser():
    pass

def test_of_an_absent_package():
    pytest.importorskip("no_such_package")

@pytest.mark.xfail(reason="not yet")
def test_to_come():
    assert False
"""


@pytest.fixture
def suite(pytester):
    pytester.makeconftest(CONFTEST.read_text())
    return pytester


@pytest.mark.parametrize("workers", [(), ("-n", "1")])
def test_a_skip_for_an_unlisted_reason_fails(suite, workers):
    suite.makepyfile(TESTS)
    ended = suite.runpytest_subprocess("-p", "no:cacheprovider", *workers)
    ended.assert_outcomes(skipped=1, failed=1, xfailed=1)
    ended.stdout.fnmatch_lines(["*could not import 'no_such_package'*", "*not in ALLOWED_SKIPS*"])
    assert ended.ret == pytest.ExitCode.TESTS_FAILED


def test_a_module_that_is_skipped_for_an_unlisted_reason_fails(suite):
    suite.makepyfile("import pytest\npytest.importorskip('no_such_package')\ndef test(): pass")
    ended = suite.runpytest_subprocess("-p", "no:cacheprovider")
    ended.assert_outcomes(errors=1)
    assert ended.ret == pytest.ExitCode.INTERRUPTED


def test_no_skip_is_allowed_where_none_is_wanted(suite):
    suite.makepyfile(TESTS)
    suite.runpytest_subprocess("-p", "no:cacheprovider", "--no-skips").assert_outcomes(failed=1, errors=1, xfailed=1)
