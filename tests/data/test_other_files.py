"""Pictures that are not read are named with what to do."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dim_jax.data import class_folders, other_files
from dim_jax.prediction.folder_images import find_images


@given(st.sampled_from([(kind, suffix) for kind, text in other_files.SUFFIXES.items() for suffix in text.split()]))
def test_every_suffix_is_named_in_any_case(item):
    kind, suffix = item
    for name in (f"/data/slide{suffix}", f"/data/slide{suffix.upper()}"):
        assert other_files.warnings([Path(name)], Path("/data")) == [
            f"{kind} are not read: 1 ({Path(name).name}); {other_files.REMEDIES[kind]}"
        ]


@pytest.mark.parametrize("start, kind", [
    (b"\xff\xd8\xff\xe0rest", other_files.UNNAMED), (b"\x89PNG\r\n", other_files.UNNAMED),
    (b"RIFF1234WEBP", other_files.UNNAMED), (b"RIFF1234WAVE", ""), (bytes(128) + b"DICM", other_files.DICOM),
    (b"BM", ""), (b"", ""), (b"name,age\n", ""),
])  # fmt: skip
def test_files_without_a_known_suffix_are_told_by_their_contents(tmp_path, start, kind):
    path = tmp_path / "tile1"
    path.write_bytes(start)
    assert [kind in text for text in other_files.warnings([path])] == ([True] if kind else [])


def test_preparing_and_predicting_name_them(tmp_path):
    for name in ("a/1.png", "a/1.svs", "b/2.png", "b/2.dcm"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"pixels")
    for warnings in (class_folders.read(tmp_path).warnings, find_images([tmp_path]).warnings):
        assert "whole slides are not read: 1" in warnings[0] and "cut them into fields first" in warnings[0]
        assert "DICOM files are not read: 1" in warnings[1]
    (tmp_path / "b/2.png").unlink()
    with pytest.raises(ValueError, match=r"class 'b' has no images in .*/b; .*; whole slides are not read"):
        class_folders.read(tmp_path)
    with pytest.raises(ValueError, match=r"there are no images in .*; DICOM files are not read"):
        find_images([tmp_path / "b"])
