"""An output that cannot be written is refused before any work."""

import os

import pytest

from dim_jax.runs import outputs

PLACES = {
    "/": "is the root of the file system",
    "//": "is the root of the file system",
    "{folder}/../../../../../../../..": "is the root of the file system",
    "{folder}/a.txt/out": "inside .*a.txt, which is a file",
    "{folder}/a.txt/deep/out": "inside .*a.txt, which is a file",
    "{folder}/broken/out": "inside .*broken, which is a file",
    "/proc/out": "no file can be created there",
    "/proc/deep/out": "no file can be created there",
    "{folder}/" + "n" * 250: "File name too long",
    "{folder}/" + "n" * 250 + "/out": "File name too long",
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    return tmp_path


@pytest.mark.parametrize("is_folder", [True, False])
@pytest.mark.parametrize("place", PLACES)
def test_a_place_where_nothing_can_be_written_is_refused(folder, place, is_folder):
    before = sorted(os.listdir(folder))
    with pytest.raises((ValueError, OSError), match=PLACES[place]):
        outputs.check(place.format(folder=folder), is_folder=is_folder)
    assert sorted(os.listdir(folder)) == before


def test_a_file_and_a_folder_are_told_apart(folder):
    for name, kind in (("a.txt", "file"), ("broken", "broken link")):
        with pytest.raises(ValueError, match=rf"--workdir=.*{name} is a {kind}; choose a folder"):
            outputs.check(folder / name, is_folder=True, option="--workdir")
    with pytest.raises(ValueError, match=rf"is a folder; give the path of a file, for example {folder}/page.html"):
        outputs.check(folder, is_folder=False, example="page.html")


@pytest.mark.parametrize("name", ["", "new", "new/deep", "a.txt"])
def test_a_place_that_can_be_written_is_left_as_it_is(folder, name):
    before = sorted(os.listdir(folder))
    outputs.check(folder / name, is_folder=name != "a.txt")
    assert sorted(os.listdir(folder)) == before


def test_a_tilde_that_the_shell_left_is_refused_unless_there_is_such_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    with pytest.raises(ValueError, match=r"~/runs/a has a ~ that .*; write /home/me/runs/a"):
        outputs.check("~/runs/a", is_folder=True)
    with pytest.raises(ValueError, match=r"has a ~ that .*; write /home/me"):
        outputs.check(tmp_path / "~", is_folder=True)
    (tmp_path / "~").mkdir()
    outputs.check("~/runs/a", is_folder=True)
    outputs.check("runs/~a", is_folder=True)


def test_a_mounted_volume_cannot_be_replaced():
    with pytest.raises(ValueError, match="is a mounted volume, which cannot be replaced; choose a folder in it"):
        outputs.check("/proc", is_folder=True, is_replaced=True)
