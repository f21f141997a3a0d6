"""Documentation: links lead somewhere, commands have the options that they name, and Python in it compiles."""

import contextlib
import importlib.util
import io
import re
import shlex
from pathlib import Path

import pytest

from dim_jax.__main__ import COMMANDS
from dim_jax.cli import command_line
from dim_jax.runs import config_flags

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "reference").glob("*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
COMMAND = re.compile(r"python -m dim_jax(?:\.([\w.]+))?(?= |$)")
LINK = re.compile(r"\]\(([^)\s]+)\)")
# Packages in examples, which the tests of docs/extending.md import.
ELSEWHERE = ("mypackage",)


def code_blocks(text):
    """(language, code) of the fenced and the indented blocks of a page; indented ones have no language."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)
    rest = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    indented = re.findall(r"(?:(?<=\n)|^)\n((?:    .*\n|\n(?=    ))+)", rest)
    return [*fenced, *(("", re.sub(r"^    ", "", block, flags=re.M)) for block in indented)]


def commands(text):
    """(module, arguments) of every command of this package in a page's code blocks and tables."""
    lines = [line for _, block in code_blocks(text) for line in re.sub(r"\\\n", " ", block).splitlines()]
    lines += re.findall(r"`(python -m dim_jax[^`]*)`", text)
    for line in lines:
        match = COMMAND.match(line.strip())
        if match:
            yield match[1] or "__main__", shlex.split(line.strip()[match.end() :], comments=True)


def anchors(page):
    """Anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    headings = re.findall(r"^#+ +(.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def help_of(name, cache={}):  # noqa: B006 (kept between the tests on purpose)
    """The text of --help of a command."""
    if name not in cache:
        output = io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
            command_line.run(importlib.import_module(f"dim_jax.{name}").main, ["--help"])
        cache[name] = output.getvalue()
    return cache[name]


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_to_files_and_headings(name):
    page, broken = ROOT / name, []
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    for link in LINK.findall(text):
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        path = (page.parent / target).resolve() if target else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("name", NAMES)
def test_commands_have_the_options_that_a_page_gives_them(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    unknown = []
    for module, arguments in commands((ROOT / name).read_text()):
        if module not in COMMANDS:
            if importlib.util.find_spec(f"dim_jax.{module}") is None:
                unknown.append(f"python -m dim_jax.{module}")
            continue
        options = [argument.split("=")[0] for argument in arguments if argument.startswith("--")]
        named = {option for option in options if not option.startswith("--config.")}
        unknown += [f"{module} {option}" for option in sorted(named) if not re.search(rf"{option}\b", help_of(module))]
    assert not unknown


@pytest.mark.parametrize("name", NAMES)
def test_configuration_fields_in_commands_exist(name, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    for module, arguments in commands((ROOT / name).read_text()):
        if module != "train" or not any(argument.startswith("--config=") for argument in arguments):
            continue
        given = [argument for argument in arguments if not argument.startswith(("--workdir", "--dry-run", "--profile"))]
        if not any(other in argument for argument in given for other in (*ELSEWHERE, "...")):
            config_flags.parse_flags([*given, f"--workdir={tmp_path / 'run'}"])


@pytest.mark.parametrize("name", NAMES)
def test_python_in_a_page_compiles(name):
    for language, block in code_blocks((ROOT / name).read_text()):
        if language == "python" or (not language and re.match(r"(from [\w.]+ )?import ", block)):
            compile(block, name, "exec")


def test_the_menu_of_the_site_lists_every_page():
    menu = (ROOT / "mkdocs.yml").read_text().partition("nav:")[2]
    missing = [page for page in NAMES if page.startswith("docs/") and page.removeprefix("docs/") not in menu]
    assert not missing, f"mkdocs.yml, nav: add {missing}"


def test_the_checks_find_the_blocks_of_these_pages():
    """The other tests would pass if nothing were found."""
    found = {name: [len(list(commands(page.read_text()))), len(code_blocks(page.read_text()))]
             for name, page in zip(NAMES, PAGES, strict=True)}  # fmt: skip
    assert found["README.md"][0] >= 6 and found["docs/evaluation.md"][0] >= 8 and found["docs/interop.md"][1] >= 5
    assert "review" in anchors(ROOT / "docs" / "review.md") or "scores" in anchors(ROOT / "docs" / "review.md")
    with pytest.raises(SyntaxError):
        compile("def", "page", "exec")
