"""The manifest, its CSV form and the list of generated images."""

import csv
import io
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from dim_jax.data import manifest as manifests
from dim_jax.data import tables
from dim_jax.data.manifest import Manifest, Row
from dim_jax.runs import files

ROWS = (Row("a/1.png", "a", "case 1", "00", 4, 5), Row("b/ü 2.png", "b", "", "11", 6, 7))


def images_in(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"pixels")


def test_a_saved_manifest_is_read_back(tmp_path):
    manifest = Manifest(tmp_path / "elsewhere", ("b", "a"), ROWS)
    manifests.save(manifest, tmp_path / "data")
    loaded = manifests.load(tmp_path / "data")
    assert loaded == manifest and loaded.fingerprint == manifest.fingerprint
    assert loaded.labels.tolist() == [1, 0] and loaded.labels.dtype == np.int32
    assert loaded.file(1) == tmp_path / "elsewhere" / "b" / "ü 2.png"


def test_a_folder_with_its_images_inside_can_be_moved(tmp_path):
    data = tmp_path / "data"
    images_in(data / "images", "a/1.png")
    images_in(data / "converted", "b/2.tif.png")
    rows = (ROWS[0], replace(ROWS[1], path="b/2.tif.png", converted=True))
    manifests.save(Manifest(data / "images", ("a", "b"), rows, data / "converted"), data)
    shutil.move(data, tmp_path / "moved")
    loaded = manifests.load(tmp_path / "moved")
    assert manifests.missing_files(loaded) == []
    (tmp_path / "moved" / "images" / "a" / "1.png").unlink()
    assert manifests.missing_files(loaded) == [tmp_path / "moved" / "images" / "a" / "1.png"]


@pytest.mark.parametrize("change, message", [
    (lambda record: record.update(version=9), "version 9"),
    (lambda record: record.pop("classes"), "lacks classes"),
    (lambda record: record.update(classes=["a", "a"]), "different names"),
    (lambda record: record.update(rows=[]), "'rows'"),
    (lambda record: record.update(root=3), "'root'"),
    (lambda record: record["rows"][1].pop("sha256"), "row 1 lacks 'sha256'"),
    (lambda record: record["rows"][1].update(width="6"), "row 1: 'width' must be int"),
    (lambda record: record["rows"][1].update(label="c"), "row 1: unknown label 'c'"),
    (lambda record: record["rows"][1].update(path="../x.png"), "row 1: path '../x.png' leaves"),
    (lambda record: record["rows"][0].update(path="/etc/x.png"), "row 0: path '/etc/x.png' leaves"),
    (lambda record: record["rows"][1].update(path="a/1.png"), "row 1: 'a/1.png' is listed twice"),
    (lambda record: record["rows"][1].update(converted=True), "converted_root"),
])  # fmt: skip
def test_errors_of_a_broken_manifest_are_one_line_with_the_place(tmp_path, change, message):
    path = manifests.save(Manifest(tmp_path, ("a", "b"), ROWS), tmp_path)
    record = files.read_json(path)
    change(record)
    files.write_json(path, record)
    with pytest.raises(ValueError, match=message) as caught:
        manifests.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_error_of_a_missing_manifest_names_the_command_that_writes_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"dim_jax\.prepare"):
        manifests.load(tmp_path)


def test_paths_of_generated_images_are_relative_to_their_list(tmp_path):
    for name in ("pool/b/seed1.png", "selected/a/seed2.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    entries = [{"path": "../pool/b/seed1.png", "label": "b", "score": 1}, {"path": "a/seed2.png", "label": "a"}]
    path = files.write_json(tmp_path / "selected" / "selected.json", {"images": entries})
    expected = [(tmp_path / "pool/b/seed1.png", 1), (tmp_path / "selected/a/seed2.png", 0)]
    assert manifests.load_generated(path, ("a", "b")) == expected
    with pytest.raises(ValueError, match="image 0: unknown label 'b'"):
        manifests.load_generated(path, ("a", "c"))
    (tmp_path / "selected" / "a" / "seed2.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"image 1: .*seed2\.png"):
        manifests.load_generated(path, ("a", "b"))
    files.write_json(path, {"images": ["a/seed2.png"]})
    with pytest.raises(ValueError, match="must hold"):
        manifests.load_generated(path, ("a", "b"))


@pytest.mark.parametrize("mode, message", [("RGBA", "RGBA"), ("P", "palette"), ("RGB", "")])
def test_a_listed_image_that_decoders_read_differently_is_refused(tmp_path, mode, message):
    Image.new("RGB", (4, 4), "red").convert(mode).save(tmp_path / "a.png")
    path = files.write_json(tmp_path / "selected.json", {"images": [{"path": "a.png", "label": "a"}]})
    if not message:
        assert manifests.load_generated(path, ("a", "b")) == [(tmp_path / "a.png", 0)]
        return
    with pytest.raises(ValueError, match=rf"a\.png: decoders read it differently \({message}"):
        manifests.load_generated(path, ("a", "b"))


QUOTES = "\u201c\u201d\u201e\u00ab\u00bb"  # on both sides of a cell they are left out
letters = st.characters(codec="utf-8", exclude_characters=f"/\\{QUOTES}", exclude_categories=["Cc", "Zs", "Zl", "Zp"])
names = st.text(letters, min_size=1, max_size=12).filter(lambda name: name not in (".", "..") and name == name.strip())


@settings(max_examples=30)
@example({"0": ("0\u00bb", "\u201c1")}, False)  # quotes on one side are part of a name
@given(st.dictionaries(names, st.tuples(names, st.one_of(st.just(""), names)), min_size=1, max_size=5), st.booleans())
def test_any_csv_of_existing_images_is_read_back(images, byte_order_mark):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "set with ü"
        images_in(folder, *(f"i/{path}" for path in images))
        table = io.StringIO()
        writer = csv.writer(table)
        writer.writerow(["group", "path", "label", "stain"])
        writer.writerows([group, f"i/{path}", label, "HE"] for path, (label, group) in images.items())
        encoding = "utf-8-sig" if byte_order_mark else "utf-8"
        (folder / "manifest.csv").write_bytes(table.getvalue().encode(encoding))
        listing = tables.read(folder / "manifest.csv")
        assert listing.root == folder and not listing.has_split
        assert {item.path[2:]: (item.label, item.group) for item in listing.images} == images
        assert [item.path for item in listing.images] == sorted(item.path for item in listing.images)


def test_csv_paths_are_relative_to_the_source_or_else_to_the_csv(tmp_path):
    images_in(tmp_path, "pictures/a/1.png", "tables/b/2.png")
    table = tmp_path / "tables" / "manifest.csv"
    table.write_text("path,label,split\na/1.png,a,Validation\n")
    listing = tables.read(table, tmp_path / "pictures")
    assert listing.root == tmp_path / "pictures" and listing.has_split and listing.images[0].split == "val"
    table.write_text("path,label\nb/2.png,b\n")
    assert tables.read(table, tmp_path / "pictures").root == tmp_path / "tables"
    table.write_text(f"path,label\n{tmp_path}/pictures/a/1.png,a\n")
    assert tables.read(table, tmp_path / "pictures").images[0].path == "a/1.png"


@pytest.mark.parametrize("text, error, message", [
    ("file,class\na.png,a\n", ValueError, "lacks the columns path, label; it has file, class"),
    ("path,group\na.png,a\n", ValueError, "lacks the column label"),
    ("", ValueError, "it has none"),
    ("path,label\n", ValueError, "lists no images"),
    ("path,label\na.png,a\n./a.png,b\n", ValueError, "line 3: 'a.png' is already listed in line 2"),
    ("path,label\na.png,a\nz.png,b\n", FileNotFoundError, "line 3: .*z.png does not exist"),
    ("path,label\n../a.png,a\n", ValueError, "line 2: path '../a.png' leads outside"),
    ("path,label\n/etc/passwd,a\n", ValueError, "line 2: path '/etc/passwd' leads outside"),
    ("path,label\na.png,\n", ValueError, "line 2: the label is empty"),
    ("path,label\n,a\n", ValueError, "line 2: the path is empty"),
    ("path,label,split\na.png,a,later\n", ValueError, "line 2: unknown split 'later'"),
    ("path,label\na.png,a,b,c\n", ValueError, "line 2: more cells"),
    ("path,label\na.png\n", ValueError, "line 2: the label is empty"),
])  # fmt: skip
def test_errors_of_a_broken_csv_are_one_line_with_the_place(tmp_path, text, error, message):
    images_in(tmp_path, "a.png")
    (tmp_path / "manifest.csv").write_text(text)
    with pytest.raises(error, match=message) as caught:
        tables.read(tmp_path / "manifest.csv")
    assert "\n" not in str(caught.value)


def test_a_csv_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "manifest.csv").write_bytes("path,label\nä.png,a\n".encode("latin-1"))
    with pytest.raises(ValueError, match="UTF-8"):
        tables.read(tmp_path / "manifest.csv")
