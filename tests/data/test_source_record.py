"""Changes of a source since it was prepared are counted and named, and nothing else is."""

import hashlib
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dim_jax.data import manifest as manifests
from dim_jax.data import relocation, source_record
from dim_jax.data.listing import ListedImage, Listing
from dim_jax.data.manifest import Manifest, Row
from dim_jax.runs import workdir

NAMES = [f"{label}/{number}.png" for label in "ab" for number in range(4)]


def prepared(root, data):
    """Writes files that stand for images, and the manifest and record of them, and returns the listing."""
    rows, listed = [], []
    for name in NAMES:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
        status, digest = path.stat(), hashlib.sha256(name.encode()).hexdigest()
        rows.append(Row(name, name[0], f"P{name[2]}", digest, 1, 1, False, status.st_size, status.st_mtime_ns))
        listed.append(ListedImage(name, name[0], f"P{name[2]}"))
    manifests.save(Manifest(root, ("a", "b"), tuple(rows)), data)
    listing = Listing(root, listed, ("a", "b"))
    source_record.write(listing, data)
    return listing


@settings(max_examples=40)
@given(st.dictionaries(st.sampled_from(NAMES), st.sampled_from(["label", "group", "remove", "move", "contents"])))
def test_every_edit_is_counted_and_nothing_is_said_without_one(edits):
    with tempfile.TemporaryDirectory() as folder:
        root, data = Path(folder, "images"), Path(folder, "data")
        listing = prepared(root, data)
        images = {item.path: item for item in listing.images}
        for name, edit in edits.items():
            item = images[name]
            if edit == "label":
                images[name] = replace(item, label="c")
            elif edit == "group":
                images[name] = replace(item, group="Q")
            elif edit == "remove":
                (root / name).unlink()
                del images[name]
            elif edit == "move":
                moved = name.replace("/", "/moved ")
                (root / name).rename(root / moved)
                del images[name]
                images[moved] = replace(item, path=moved)
            else:
                (root / name).write_bytes(b"other" + name.encode())
        texts = source_record.changes(data, lambda: replace(listing, images=list(images.values())))
        verbs = {"label": "changed", "group": "changed", "remove": "gone", "move": "moved", "contents": "changed"}
        kinds = {"label": "label", "group": "group", "remove": "image", "move": "image", "contents": "file"}
        counts = {edit: list(edits.values()).count(edit) for edit in set(edits.values())}
        assert len(texts) == len(counts)
        for edit, count in counts.items():
            (text,) = [text for text in texts if text.startswith(f"{count} {kinds[edit]}") and verbs[edit] in text]
            assert next(name for name in NAMES if edits.get(name) == edit) in text


def test_a_group_in_another_spelling_and_a_copied_file_are_no_change(tmp_path):
    listing = prepared(tmp_path / "images", tmp_path / "data")
    for name in NAMES:
        encoded = (tmp_path / "images" / name).read_bytes()
        (tmp_path / "images" / name).unlink()
        (tmp_path / "images" / name).write_bytes(encoded)
    respelled = [replace(item, group=item.group.lower().replace("p", "p-0")) for item in listing.images]
    assert source_record.changes(tmp_path / "data", lambda: replace(listing, images=respelled)) == []


def test_added_images_are_named(tmp_path):
    listing = prepared(tmp_path / "images", tmp_path / "data")
    more = [ListedImage(f"a/new{number}.png", "a") for number in range(5)]
    (text,) = source_record.changes(tmp_path / "data", lambda: replace(listing, images=[*listing.images, *more]))
    assert text == "5 images were added (a/new0.png, a/new1.png, a/new2.png and 2 more)"


def test_without_a_record_the_source_is_not_listed(tmp_path):
    prepared(tmp_path / "images", tmp_path / "data")
    (tmp_path / "data" / source_record.FILE_NAME).unlink()
    assert source_record.changes(tmp_path / "data", lambda: pytest.fail("it was listed")) == []
    (tmp_path / "images" / NAMES[0]).unlink()
    (text,) = source_record.changes(tmp_path / "data", None)
    assert text.startswith("1 file is gone") and NAMES[0] in text


@pytest.mark.parametrize("record", [b"[]", b"{}", b'{"version": 1, "columns": ["size"], "images": {"a": 1}}', b"x"])
def test_a_damaged_record_is_refused(tmp_path, record):
    (tmp_path / source_record.FILE_NAME).write_bytes(record)
    with pytest.raises(ValueError, match=r"sources\.json"):
        source_record.read(tmp_path)


def test_images_of_a_moved_folder_are_compared_before_the_manifest_is_rewritten(tmp_path):
    prepared(tmp_path / "images", tmp_path / "data")
    (tmp_path / "images").rename(tmp_path / "moved")
    before = (tmp_path / "data" / "manifest.json").read_bytes()
    (tmp_path / "moved" / NAMES[1]).write_bytes(b"others")
    with pytest.raises(ValueError, match=rf"SHA-256 of 1 of 8 differs \({NAMES[1]}\)"):
        relocation.relocate([tmp_path / "data"], tmp_path / "moved")
    (tmp_path / "moved" / NAMES[1]).unlink()
    with pytest.raises(FileNotFoundError, match="lacks 1 of the 8 images"):
        relocation.relocate([tmp_path / "data"], tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        relocation.relocate([tmp_path / "data"], tmp_path / "absent")
    assert (tmp_path / "data" / "manifest.json").read_bytes() == before
    (tmp_path / "moved" / NAMES[1]).write_bytes(NAMES[1].encode())
    relocation.relocate([tmp_path / "data"], tmp_path / "moved")
    manifest = manifests.load(tmp_path / "data")
    assert manifest.root == tmp_path / "moved" and manifests.changed_files(manifest) == []


def test_a_prepared_folder_that_was_moved_brings_its_converted_images(tmp_path):
    run, data = tmp_path / "run", tmp_path / "data"
    prepared(data / "images", data)
    (data / "converted").mkdir()
    (data / "images" / "a" / "0.png").rename(data / "converted" / "0.png")
    manifest = manifests.load(data)
    rows = (replace(manifest.rows[0], path="0.png", converted=True), *manifest.rows[1:])
    manifest = replace(manifest, rows=rows, converted_root=data / "converted")
    for folder in (data, run):
        manifests.save(manifest, folder)
    data.rename(tmp_path / "moved")
    relocation.relocate([run], tmp_path / "moved")
    moved = manifests.load(run)
    assert moved.root == tmp_path / "moved" / "images" and moved.converted_root == tmp_path / "moved" / "converted"
    assert manifests.missing_files(moved) == []


def test_a_run_in_use_is_not_moved(tmp_path):
    prepared(tmp_path / "images", tmp_path / "run")
    (tmp_path / "run" / workdir.CONFIG).write_text("{}")
    with workdir.claim(tmp_path / "run"), pytest.raises(ValueError, match="is in use by process"):
        relocation.relocate([tmp_path / "run"], tmp_path / "images")
    relocation.relocate([tmp_path / "run"], tmp_path / "images")
