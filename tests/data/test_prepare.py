"""The prepare command: output files, duplicates, conversions, warnings and refused input."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from dim_jax import prepare as command
from dim_jax.cli import command_line
from dim_jax.data import images, splits
from dim_jax.data import manifest as manifests
from dim_jax.data.preparation import prepare_dataset
from dim_jax.runs import files


def picture(seed, side=24):
    """Returns a smooth random image, uint8 of shape (side, side, 3), different for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BILINEAR))


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def class_folders(root, counts=(("normal", 6), ("polyp ü", 9)), per_case=1):
    seed = 0
    for label, count in counts:
        for number in range(count):
            seed += 1
            write(root / label / f"case{number // per_case}-{label[0]}_{number}.png", picture(seed))
    return root


def run(*arguments):
    return command_line.run(command.main, [str(argument) for argument in arguments])


def everything_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_class_folders_become_a_manifest_a_split_and_a_report(tmp_path, capsys):
    source = class_folders(tmp_path / "my slides")
    (source / "normal" / "notes.txt").write_text("x")
    (source / "normal" / ".hidden.png").write_bytes(b"")
    (source / ".cache").mkdir()
    write(source / "loose.png", picture(99))
    assert run(f"--source={source}", f"--out={tmp_path / 'new' / 'data'}", "--image-size=16") == 0
    data = tmp_path / "new" / "data"
    assert sorted(os.listdir(data)) == [
        "data_report.json", "data_report.txt", "examples.png", "manifest.json", "sources.json", "split.json",
    ]  # fmt: skip
    assert os.listdir(data.parent) == ["data"]
    manifest = manifests.load(data)
    assert manifest.classes == ("normal", "polyp ü") and len(manifest) == 15
    assert manifests.missing_files(manifest) == []
    assert [row.path for row in manifest.rows] == sorted(row.path for row in manifest.rows)
    split = splits.load(data, manifest)
    assert split.method == "image"
    report = files.read_json(data / "data_report.json")
    assert report["ignored"] == ["loose.png", "normal/notes.txt"]
    assert report["counts"] == {"normal": 6, "polyp ü": 9} and report["imbalance_ratio"] == 1.5
    assert report["sizes"]["histogram"] == {"24x24": 15}
    assert any("no patient or case is known" in warning for warning in report["warnings"])
    assert "WARNING: no patient or case is known" in capsys.readouterr().out

    train = [images.resize(images.read_image(manifest.file(row)), 16) / 255 for row in split.rows(0, "train")]
    np.testing.assert_allclose(split.folds[0].mean, np.mean(train, (0, 1, 2)), atol=1e-9)
    np.testing.assert_allclose(split.folds[0].std, np.std(train, (0, 1, 2)), atol=1e-9)


def test_groups_come_from_the_path_and_stay_together(tmp_path):
    source = class_folders(tmp_path / "source", (("normal", 12), ("polyp", 18)), per_case=3)
    data = prepare_dataset(source, tmp_path / "data", group_regex=r"(case\d+-.)_", image_size=16)
    manifest = manifests.load(data)
    split = splits.load(data, manifest)
    assert split.method == "group" and manifest.rows[0].group == "case0-n"
    report = files.read_json(data / "data_report.json")
    assert report["groups"]["number"] == 10 and report["folds"][0]["leaks"] == {"groups": [], "same_picture": []}
    assert report["groups"]["per_class"] == {"normal": 4, "polyp": 6}


def test_preparing_again_changes_nothing_and_other_options_are_refused(tmp_path, capsys):
    source = class_folders(tmp_path / "source")
    data = prepare_dataset(source, tmp_path / "data", image_size=16)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in data.iterdir()}
    assert prepare_dataset(source, data, image_size=16) == data
    assert "already prepared" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"seed was 0 and is now 1.*choose another --out"):
        prepare_dataset(source, data, image_size=16, seed=1)
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in data.iterdir()} == before


def test_the_same_source_gives_the_same_split_anywhere(tmp_path):
    source = class_folders(tmp_path / "source", per_case=2)
    first, second = (prepare_dataset(source, tmp_path / name, image_size=16) for name in ("a", "b"))
    for name in ("split.json", "manifest.json", "data_report.txt"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_copies_are_detected_and_kept_in_one_part_of_the_split(tmp_path, capsys):
    source = class_folders(tmp_path / "source", (("normal", 6), ("polyp", 30)))
    original = source / "polyp" / "case0-p_0.png"
    (source / "polyp" / "copy.png").write_bytes(original.read_bytes())
    Image.open(original).resize((40, 30)).save(source / "polyp" / "resized.jpg", quality=60)
    Image.open(original).transpose(Image.Transpose.ROTATE_90).save(source / "normal" / "turned.png")
    for seed in range(3):
        data = prepare_dataset(source, tmp_path / f"data{seed}", image_size=16, seed=seed)
        manifest = manifests.load(data)
        assignment = splits.load(data, manifest).folds[0].assignment
        copies = {"polyp/case0-p_0.png", "polyp/copy.png", "polyp/resized.jpg", "normal/turned.png"}
        assert len({assignment[row] for row, item in enumerate(manifest.rows) if item.path in copies}) == 1
    duplicates = files.read_json(data / "data_report.json")["duplicates"]
    assert duplicates["exact"] == [["polyp/case0-p_0.png", "polyp/copy.png"]]
    assert [set(paths) for paths in duplicates["near"]] == [copies]
    assert duplicates["conflicting"][0]["normal/turned.png"] == "normal"
    assert "WARNING: one picture has two labels: normal/turned.png (normal)" in capsys.readouterr().out


def test_unusual_images_are_converted_and_listed(tmp_path):
    source = class_folders(tmp_path / "source")
    deep = np.linspace(0, 65535, 24 * 24).reshape(24, 24).astype(np.uint16)
    Image.fromarray(deep).save(source / "normal" / "deep.png")
    Image.fromarray(picture(50)).convert("CMYK").save(source / "normal" / "ink.tif")
    exif = Image.Exif()
    exif[images.EXIF_ORIENTATION] = 6
    Image.fromarray(picture(51)[:12]).save(source / "normal" / "turned.jpg", exif=exif)
    data = prepare_dataset(source, tmp_path / "data", image_size=16)
    report = files.read_json(data / "data_report.json")
    assert {item["path"]: item["reason"] for item in report["converted"]} == {
        "normal/deep.png": "I;16", "normal/ink.tif": "TIFF, CMYK", "normal/turned.jpg": "EXIF rotation",
    }  # fmt: skip
    moved = tmp_path / "moved"
    data.rename(moved)
    manifest = manifests.load(moved)
    for index, row in enumerate(manifest.rows):
        with Image.open(manifest.file(index)) as image:
            assert image.mode == "RGB" and image.size == (row.width, row.height)
        if row.converted:
            listed = source / row.path.removesuffix(".png")
            np.testing.assert_array_equal(images.read_image(manifest.file(index)), images.read_image(listed))
    assert {row.path for row in manifest.rows if row.converted} == {
        "normal/deep.png.png", "normal/ink.tif.png", "normal/turned.jpg.png",
    }  # fmt: skip


def test_unreadable_images_are_left_out_with_a_warning_or_refused(tmp_path, capsys):
    source = class_folders(tmp_path / "source")
    (source / "normal" / "zero.png").write_bytes(b"")
    whole = (source / "normal" / "case0-n_0.png").read_bytes()
    (source / "normal" / "cut.png").write_bytes(whole[: len(whole) // 2])
    assert run(f"--source={source}", f"--out={tmp_path / 'strict'}", "--image-size=16", "--strict") == 2
    assert "2 images cannot be read (normal/cut.png" in capsys.readouterr().err
    assert everything_below(tmp_path) == sorted(["source", *(f"source/{name}" for name in everything_below(source))])
    data = prepare_dataset(source, tmp_path / "data", image_size=16)
    assert "WARNING: 2 unreadable images are left out: normal/cut.png" in capsys.readouterr().out
    assert len(manifests.load(data)) == 15
    report = files.read_json(data / "data_report.json")
    assert [item["path"] for item in report["unreadable"]] == ["normal/cut.png", "normal/zero.png"]
    assert report["unreadable"][1]["reason"] == "the file is empty"


def write_csv(source, columns, records):
    lines = [",".join(columns), *(",".join(record) for record in records)]
    (source / "manifest.csv").write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    return source / "manifest.csv"


def test_a_split_column_is_used_and_its_leaks_are_reported(tmp_path, capsys):
    source = class_folders(tmp_path / "source", (("a", 6), ("b", 6)), per_case=2)
    parts = ["train", "train", "train", "test", "validation", "val"] * 2
    names = [path.relative_to(source).as_posix() for path in sorted(source.rglob("*.png"))]
    records = [(name, name[0], name[2:7] + name[0], part) for name, part in zip(names, parts, strict=True)]
    table = write_csv(source, ("path", "label", "group", "split"), records)
    data = prepare_dataset(None, tmp_path / "data", manifest=table, image_size=16)
    manifest = manifests.load(data)
    split = splits.load(data, manifest)
    assert split.method == "manifest"
    assert split.folds[0].assignment == tuple({"validation": "val"}.get(part, part) for part in parts)
    assert "WARNING: 2 groups are in more than one split: case1a, case1b" in capsys.readouterr().out
    resplit = prepare_dataset(source, tmp_path / "resplit", split="group", image_size=16)
    assert splits.load(resplit, manifests.load(resplit)).method == "group"
    printed = capsys.readouterr().out
    assert f"using {table}" in printed and "split column" in printed


def test_images_without_group_are_counted(tmp_path, capsys):
    source = class_folders(tmp_path / "source", (("a", 6), ("b", 6)))
    names = [path.relative_to(source).as_posix() for path in sorted(source.rglob("*.png"))]
    write_csv(
        source, ("path", "label", "group"), [(n, n[0], "" if number < 3 else n) for number, n in enumerate(names)]
    )
    prepare_dataset(source, tmp_path / "data", image_size=16)
    assert "WARNING: 3 images have no group" in capsys.readouterr().out


def test_kfold_writes_every_fold(tmp_path):
    source = class_folders(tmp_path / "source", (("a", 8), ("b", 8)))
    data = prepare_dataset(source, tmp_path / "data", split="kfold", folds=4, image_size=16)
    split = splits.load(data, manifests.load(data))
    assert len(split.folds) == 4 and len({fold.mean for fold in split.folds}) == 4
    assert "fold 3 of 4 (kfold)" in (data / "data_report.txt").read_text()


def test_the_random_image_split_warns_and_lists_divided_groups(tmp_path, capsys):
    source = class_folders(tmp_path / "source", (("a", 12), ("b", 12)), per_case=6)
    data = prepare_dataset(source, tmp_path / "data", split="random_image", group_regex=r"case\d-.", image_size=16)
    printed = capsys.readouterr().out
    assert "WARNING: the random image split ignores patients" in printed and "groups are in more than one" in printed
    assert splits.load(data, manifests.load(data)).method == "random_image"


def test_a_class_too_small_for_every_part_gives_a_warning(tmp_path, capsys):
    prepare_dataset(class_folders(tmp_path / "s", (("a", 9), ("b", 2))), tmp_path / "data", image_size=16)
    assert "WARNING: class 'b' has no images in val: it has only 2 unit(s) in all, each" in capsys.readouterr().out


@pytest.mark.parametrize("by_folders", [False, True])
def test_a_class_that_the_given_split_leaves_out_is_named_with_that_reason(tmp_path, capsys, by_folders):
    parts = ("train", "val", "test")
    source = class_folders(tmp_path / "s", (("a", 9), ("b", 9)))
    paths = sorted(path.relative_to(source).as_posix() for path in source.rglob("*.png"))
    part_of = {path: parts[number % 3] if path.startswith("a") else "train" for number, path in enumerate(paths)}
    for path, part in part_of.items() if by_folders else ():
        (source / part / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).rename(source / part / path)
    if by_folders:
        [(source / name).rmdir() for name in "ab"]
    else:
        write_csv(source, ("path", "label", "split"), [(path, path[0], part) for path, part in part_of.items()])
    prepare_dataset(source, tmp_path / "data", image_size=16)
    printed = capsys.readouterr().out
    assert "class 'b' has no images in val: the given split has all of its 9 images elsewhere" in printed
    assert "unit(s) in all" not in printed


def test_classes_set_the_label_order(tmp_path):
    data = prepare_dataset(
        class_folders(tmp_path / "s"), tmp_path / "data", classes=["polyp ü", "normal"], image_size=16
    )
    assert manifests.load(data).classes == ("polyp ü", "normal")


def test_excluded_classes_are_left_out_and_noted_in_the_report(tmp_path, capsys):
    source = class_folders(tmp_path / "s", counts=(("a", 6), ("b", 7), ("c", 8)))
    assert run(f"--source={source}", f"--out={tmp_path / 'd'}", "--exclude=b", "--image-size=16") == 0
    manifest = manifests.load(tmp_path / "d")
    assert manifest.classes == ("a", "c") and len(manifest) == 14
    assert "7 images of b are left out because of --exclude" in capsys.readouterr().out
    assert run(f"--source={source}", f"--out={tmp_path / 'd'}", "--image-size=16") == 2  # another set of images
    data = prepare_dataset(source, tmp_path / "e", exclude=["b"], classes=["c", "a"], image_size=16)
    assert manifests.load(data).classes == ("c", "a")


def test_listed_images_are_left_out_and_unknown_ones_are_named(tmp_path, capsys):
    source = class_folders(tmp_path / "s", counts=(("a", 6), ("b", 7)))
    names = sorted(path.relative_to(source).as_posix() for path in source.rglob("*.png"))
    table = tmp_path / "issues.csv"
    table.write_text("path,label,suggested\n" + names[0] + ",a,b\n" + names[8].replace("/", "\\") + ",b,a\n")
    arguments = [f"--source={source}", f"--out={tmp_path / 'd'}", f"--exclude-list={table}", "--image-size=16"]
    assert run(*arguments) == 0
    left = {row.path for row in manifests.load(tmp_path / "d").rows}
    assert left == set(names) - {names[0], names[8]}
    assert "2 images are left out because of --exclude-list=" in capsys.readouterr().out
    assert run(*arguments) == 0 and "nothing to do" in capsys.readouterr().out
    table.write_text(f"path,label\n{names[0]},a\n")
    assert run(*arguments) == 2  # an image more
    table.write_text("path,label\nb/none.png,b\n")
    assert run(*arguments[:1], f"--out={tmp_path / 'e'}", *arguments[2:]) == 2
    assert "such as 'b/none.png'" in capsys.readouterr().err
    assert not (tmp_path / "e").exists()


def test_an_interrupted_preparation_leaves_nothing(tmp_path, monkeypatch):
    source = class_folders(tmp_path / "source")
    monkeypatch.setattr(splits, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        prepare_dataset(source, tmp_path / "new" / "data", image_size=16)
    assert os.listdir(tmp_path) == ["source"]


def test_phantom_images_are_written_into_the_prepared_folder(tmp_path):
    pytest.importorskip("dim_jax.data.phantom")
    data = prepare_dataset("phantom", tmp_path / "data", image_size=32, scale=0.02)
    data = data.rename(tmp_path / "moved")
    manifest = manifests.load(data)
    assert manifest.classes == ("normal", "polyp", "low_grade_in", "high_grade_in", "adenocarcinoma")
    assert manifests.missing_files(manifest) == [] and manifest.root == data / "images"
    assert splits.load(data, manifest).method == "group" and {row.width for row in manifest.rows} == {32}


def spoil_with_empty_class(source):
    (source / "adenoma").mkdir()


def spoil_with_unreadable_class(source):
    (source / "adenoma").mkdir()
    (source / "adenoma" / "x.png").write_bytes(b"")


def spoil_with_one_class(source):
    for path in (source / "normal").iterdir():
        path.unlink()
    (source / "normal").rmdir()


def spoil_with_columns(source):
    write_csv(source, ("file", "class"), [("normal/case0-n_0.png", "normal")])


def spoil_with_split_column_without_test(source):
    names = [path.relative_to(source).as_posix() for path in sorted(source.rglob("*.png"))]
    write_csv(source, ("path", "label", "split"), [(n, n[0], "train" if k % 2 else "val") for k, n in enumerate(names)])


@pytest.mark.parametrize("spoil, arguments, message", [
    (None, ["--source=ABSENT"], "ABSENT: no such folder"),
    (None, [], "give --source"),
    (None, ["--source=SOURCE", "--out=SOURCE"], "inside each other"),
    (None, ["--source=SOURCE", "--out=SOURCE/data"], "inside each other"),
    (None, ["--source=SOURCE", "--out=."], "inside each other"),
    (None, ["--source=phantom", "--out=SOURCE"], "not empty"),
    (None, ["--source=phantom", "--out=SOURCE/normal/case0-n_0.png"], "is a file"),
    (None, ["--source=SOURCE", "--group-regex=(case"], "is not a regular expression"),
    (None, ["--source=SOURCE", "--group-regex=case[0-4]"], "finds no group in 'normal/case5-n_5.png'"),
    (None, ["--source=SOURCE", "--classes=normal"], "unknown label 'polyp ü' at polyp ü/"),
    (None, ["--source=SOURCE", "--classes=normal,polyp ü,adenoma"], "class 'adenoma' has no images"),
    (None, ["--source=SOURCE", "--classes=normal,normal"], "empty or repeated"),
    (None, ["--source=SOURCE", "--exclude=adenoma"], "--exclude=adenoma is not a class"),
    (None, ["--source=SOURCE", "--image-size=4"], "at least 8"),
    (None, ["--source=SOURCE", "--image-size=big"], "invalid int value: 'big'"),
    (None, ["--source=SOURCE", "--split=patient"], "--split=patient is unknown"),
    (None, ["--source=SOURCE", "--split=manifest"], "needs a manifest.csv with a split column"),
    (None, ["--source=SOURCE", "--split=kfold", "--folds=2"], "at least 3"),
    (None, ["--source=SOURCE", "--split=kfold", "--folds=99"], "cannot be divided into 99 parts"),
    (None, ["--source=SOURCE", "--validation=0.9"], "leave something to train on"),
    (None, ["--source=SOURCE", "--scale=2"], "only for --source=phantom"),
    (None, ["--source=SOURCE", "--seed=-1"], "must not be negative"),
    (None, ["--source=SOURCE", "--sorce=x"], "unrecognized arguments"),
    (None, ["--source=SOURCE", "--manifest=ABSENT.csv"], "ABSENT.csv: no such file"),
    (None, ["--source=phantom", "--group-regex=x"], "drop --manifest and --group-regex"),
    (None, ["--source=phantom", "--scale=0"], "must be positive"),
    (None, ["--source=SOURCE/normal"], "has no class folders"),
    (spoil_with_empty_class, ["--source=SOURCE"], "class 'adenoma' has no images"),
    (spoil_with_unreadable_class, ["--source=SOURCE"], "no image of class 'adenoma' can be read"),
    (spoil_with_one_class, ["--source=SOURCE"], "only one class, 'polyp ü'"),
    (spoil_with_columns, ["--source=SOURCE"], "lacks the columns path, label; it has file, class"),
    (spoil_with_split_column_without_test, ["--source=SOURCE"], "no readable 'test' images"),
])  # fmt: skip
def test_bad_input_is_one_line_exit_two_and_nothing_written(tmp_path, monkeypatch, capsys, spoil, arguments, message):
    monkeypatch.chdir(tmp_path)
    source = class_folders(tmp_path / "SOURCE")
    if spoil:
        spoil(source)
    if not any(argument.startswith("--out") for argument in arguments):
        arguments = [*arguments, "--out=new/data"]
    before = everything_below(tmp_path)
    assert run(*arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert everything_below(tmp_path) == before


def test_help_is_quick_and_imports_no_framework():
    code = (
        "import sys; from dim_jax import prepare; from dim_jax.cli import command_line\n"
        "import dim_jax.data.image_scan, dim_jax.data.data_report\n"
        "assert not {'jax', 'tensorflow'} & set(sys.modules), 'a framework was imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    before = os.times()
    done = subprocess.run([sys.executable, "-m", "dim_jax.prepare", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "--source=phantom" in done.stdout
    # Processor time, which hardly depends on the load of the machine; 0.4 s where it is idle.
    assert os.times().children_user - before.children_user < 5


def test_without_groups_an_expression_for_the_patient_is_proposed_and_can_be_used(tmp_path, capsys):
    for number in range(48):
        label = ("normal", "polyp")[number % 2]
        write(tmp_path / "slides" / label / f"GT{2012000 + number // 6}-{number % 6}.png", picture(number))
    source = f"--source={tmp_path / 'slides'}"
    command.main([source, f"--out={tmp_path / 'first'}"])
    text = capsys.readouterr().out
    (pattern,) = re.findall(r"the names suggest patients or cases; check them: --group-regex='(.*?)' \(8 groups", text)
    command.main([source, f"--out={tmp_path / 'second'}", f"--group-regex={pattern}"])
    text = capsys.readouterr().out
    assert "8 groups" in text and "the names suggest" not in text
    assert text.splitlines()[-1].startswith("next: python -m dim_jax.train --config=classifier:finetune")
