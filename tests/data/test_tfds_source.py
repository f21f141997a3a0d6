"""TensorFlow Datasets as a source of `prepare`: mocked, built from random images, and the builders of this package."""

import csv
import hashlib
import io
import itertools
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dim_jax import prepare as command
from dim_jax.cli import command_line
from dim_jax.data import image_writer, images, splits
from dim_jax.data import manifest as manifests
from dim_jax.data.preparation import prepare_dataset
from dim_jax.data.tfds_builders import biopsies
from dim_jax.runs import files

tfds = pytest.importorskip("tensorflow_datasets")
tfds.disable_progress_bar()

REAL = Path(__file__).parents[3] / "shared" / "data" / "ebhi-seg-224"
seeds = itertools.count()


def encoded(kind="JPEG"):
    """Returns the bytes of a random image file, different for each call."""
    coarse = np.random.default_rng(next(seeds)).integers(0, 256, (8, 8, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((24, 24), Image.Resampling.BILINEAR).save(buffer, kind)
    return buffer.getvalue()


def register_dataset(name, examples, supervised_keys=None, **features):
    """Registers a TFDS dataset; `examples` maps a split to a list of examples, or is an error to raise."""

    def info(self):
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=supervised_keys
        )

    def split_generators(self, dl_manager):
        if isinstance(examples, Exception):
            raise examples
        return {split: enumerate(members) for split, members in examples.items()}

    body = {"VERSION": tfds.core.Version("1.0.0"), "_info": info, "_split_generators": split_generators}
    type(name, (tfds.core.GeneratorBasedBuilder,), {**body, "_generate_examples": None, "__module__": __name__})


def label_and_image(*classes):
    return {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=list(classes))}


def run(*arguments):
    return command_line.run(command.main, [str(argument) for argument in arguments])


def notes_of(data):
    return "; ".join(files.read_json(data / "data_report.json")["notes"])


def test_mocked_colorectal_histology_is_prepared_once(tmp_path, capsys):
    builder = tfds.builder("colorectal_histology", data_dir=tmp_path / "tfds")
    builder.info.set_splits(tfds.core.SplitDict([tfds.core.SplitInfo(name="train", shard_lengths=[40], num_bytes=0)]))
    Path(builder.data_dir).mkdir(parents=True)
    builder.info.write_to_directory(builder.data_dir)
    with tfds.testing.mock_data(num_examples=40, data_dir=str(tmp_path / "tfds")):
        assert run("--source=tfds:colorectal_histology", f"--out={tmp_path / 'data'}", "--image-size=16") == 0
    data = tmp_path / "data"
    manifest = manifests.load(data)
    names = builder.info.features["label"].names
    assert len(manifest) == 40 and manifest.root == data / "images"
    assert [name for name in names if name in manifest.classes] == list(manifest.classes)
    assert {row.path.split("/")[0] for row in manifest.rows} == set(manifest.classes)
    assert all(images.read_image(manifest.file(row)).shape == (150, 150, 3) for row in range(40))
    assert splits.load(data, manifest).method == "image"
    assert "own split train is not used (there is no validation and no test)" in notes_of(data)
    assert "colorectal_histology/2.0.0" in notes_of(data)
    capsys.readouterr()
    assert run("--source=tfds:colorectal_histology", f"--out={data}", "--image-size=16") == 0
    assert "already prepared" in capsys.readouterr().out


def test_a_dataset_with_three_splits_keeps_its_splits_and_bytes(tmp_path):
    examples = {
        split: [
            {"image": encoded(kind), "label": label, "patient": number * 3 + side}
            for number in range(2)
            for label, kind in ((0, "JPEG"), (1, "PNG"))
        ]
        for side, split in enumerate(("train", "validation", "test", "extra"))
    }
    examples["test"].append({"image": encoded(), "label": -1, "patient": 99})
    # Classes that are unsorted, with a character that folder names may not have, and one without images.
    features = {**label_and_image("tumour", "a:normal", "absent"), "patient": np.int64}
    register_dataset("ThreeSplits", examples, **features)
    source = {"data_dir": tmp_path / "tfds", "image_size": 16}
    data = prepare_dataset("tfds:three_splits", tmp_path / "data", **source)
    manifest = manifests.load(data)
    split = splits.load(data, manifest)
    assert manifest.classes == ("tumour", "a:normal") and len(manifest) == 12 and split.method == "manifest"
    expected = {
        hashlib.sha256(example["image"]).hexdigest(): (name, example["label"], str(example["patient"]))
        for name in ("train", "validation", "test")
        for example in examples[name]
    }
    for index, row in enumerate(manifest.rows):
        assert hashlib.sha256(manifest.file(index).read_bytes()).hexdigest() == row.sha256
        part = {"val": "validation"}.get(split.folds[0].assignment[index], split.folds[0].assignment[index])
        assert expected[row.sha256] == (part, manifest.classes.index(row.label), row.group)
        assert row.path.endswith(".jpg" if row.label == "tumour" else ".png") and f"/{part}-00000" in row.path
    for note in (
        "splits extra are left out",
        "1 images of the dataset have no label",
        "classes absent",
        "'patient' is the",
    ):
        assert note in notes_of(data)

    resplit = prepare_dataset(
        "tfds:three_splits", tmp_path / "resplit", split="group", group_regex=r"(\w+)-0", **source
    )
    manifest = manifests.load(resplit)
    assert len(manifest) == 16 and {row.group for row in manifest.rows} == {"train", "validation", "test", "extra"}
    assert splits.load(resplit, manifest).method == "group"
    assert "are ignored because of --split=group" in notes_of(resplit)
    assert "'patient' is ignored because of --group-regex" in notes_of(resplit)


def test_names_in_a_dataset_cannot_lead_outside_or_overwrite_each_other(tmp_path):
    names = ["../../up.png", "/etc/passwd", "..", "", "a\\..\\b.tif", "b.png", "B.png", "b-2.png", "x" * 400, "a\nb"]
    labels = ["../../up", "a/b", "a:b", ".."]
    examples = [
        {"image": encoded(), "label": label, "filename": name} for name in names for label in range(len(labels))
    ]
    features = {**label_and_image(*labels), "filename": tfds.features.Text()}
    register_dataset("BadNames", {"train": examples}, supervised_keys=("image", "label"), **features)
    data = prepare_dataset("tfds:bad_names", tmp_path / "out" / "data", data_dir=tmp_path / "tfds", image_size=16)
    manifest = manifests.load(data)
    assert manifest.classes == tuple(labels) and len(manifest) == len({row.path.lower() for row in manifest.rows}) == 40
    assert {row.path.split("/")[0] for row in manifest.rows} == {"_.._up", "a_b", "_"}
    assert len(list((data / "images").rglob("*.jpg"))) == 40
    assert {path.name for path in tmp_path.iterdir()} == {"out", "tfds"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"data"}
    assert {item["path"] for item in files.read_json(data / "data_report.json")["unreadable"]} == set()


def write_published(root, classes, name="GT{case}-1-400-{number:03d}.png", images_in="image", masks_in="label"):
    """Writes a tiny dataset in the form of EBHI-Seg: cases 11, 12 and 13 with two images per class, and their masks."""
    digests = {}
    for label, case, number in itertools.product(classes, (11, 12, 13), (1, 2)):
        file = name.format(case=f"XC{case}" if number == 2 else case, number=number + 10 * list(classes).index(label))
        for folder in filter(None, (images_in, masks_in)):
            path = root / label / folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded("PNG"))
        digests[file] = hashlib.sha256((root / label / images_in / file).read_bytes()).hexdigest()
    return digests


SIX = ("Normal", "Polyp", "Low-grade IN", "High-grade IN", "Serrated adenoma", "Adenocarcinoma")


@pytest.mark.parametrize("form", ["folder", "zip", "itself"])
def test_ebhi_seg_is_read_as_published(tmp_path, form):
    manual = tmp_path / "manual"
    folder = manual / "EBHI-SEG" / "EBHI-SEG"
    digests = write_published(folder, SIX)
    (folder / "readme.md").write_text("x")
    if form == "zip":
        shutil.make_archive(str(manual / "EBHI-SEG"), "zip", manual, "EBHI-SEG")
        shutil.rmtree(manual / "EBHI-SEG")
    if form == "itself":
        manual = folder
    else:  # another dataset in the shared folder of TFDS
        write_published(manual / "EBHI" / "200x", SIX[:2], masks_in=None)
    data = tmp_path / "data"
    options = (f"--data-dir={tmp_path / 'tfds'}", f"--manual-dir={manual}", "--image-size=16")
    assert run("--source=tfds:ebhi_seg", f"--out={data}", *options) == 0
    manifest = manifests.load(data)
    assert manifest.classes == (
        "normal", "polyp", "low_grade_in", "high_grade_in", "serrated_adenoma", "adenocarcinoma",
    )  # fmt: skip
    assert {Path(row.path).name: row.sha256 for row in manifest.rows} == digests
    assert {row.group for row in manifest.rows} == {"11", "12", "13"}
    assert splits.load(data, manifest).method == "group"
    assert files.read_json(data / "data_report.json")["folds"][0]["leaks"]["groups"] == []


def test_ebhi_gives_one_magnification(tmp_path):
    five = [name for name in SIX if name != "Serrated adenoma"]
    published = tmp_path / "manual" / "EBH-HE-IDS"
    for magnification in (40, 200):  # in the name of a folder, below or above that of the class
        write_published(published / f"{magnification}X", five, "GT{case}-{number}.jpg", ".", None)
    write_published(published, five, "GT{case}-1-400-{number:03d}.jpg", "all", None)
    digests = {}
    for name in ("ebhi", "ebhi/400x"):
        options = {"data_dir": tmp_path / "tfds", "manual_dir": tmp_path / "manual", "image_size": 16}
        manifest = manifests.load(prepare_dataset(f"tfds:{name}", tmp_path / name, **options))
        assert manifest.classes == ("normal", "polyp", "low_grade_in", "high_grade_in", "adenocarcinoma")
        assert len(manifest) == 30 and {row.group for row in manifest.rows} == {"11", "12", "13"}
        digests[name] = {row.sha256 for row in manifest.rows}
    of_200 = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (published / "200X").rglob("*.jpg")}
    assert digests["ebhi"] == of_200 and not digests["ebhi/400x"] & of_200


@pytest.mark.skipif(not REAL.is_dir(), reason="the real images are not here")
def test_real_ebhi_seg_names_give_the_known_cases():
    with (REAL / "manifest.csv").open(newline="") as file:
        known = {row["path"]: (row["label"], row["group"]) for row in csv.DictReader(file)}
    listed = biopsies.find(REAL, ("EBHI-SEG",), {label for label, _ in known.values()})
    assert {biopsy.path: (biopsy.label, biopsy.case) for biopsy in listed} == known
    assert {biopsy.magnification for biopsy in listed} == {400}


def test_pixels_are_written_as_png(tmp_path):
    writer = image_writer.ImageWriter(tmp_path)
    grey, colour = np.arange(64, dtype=np.uint8).reshape(8, 8, 1), np.zeros((8, 8, 3), np.uint8)
    paths = [writer.write(pixels, "a", "x.tif") for pixels in (grey, colour)]
    assert paths == ["a/x.png", "a/x-2.png"]
    np.testing.assert_array_equal(images.read_image(tmp_path / paths[0]), np.repeat(grey, 3, axis=2))
    with pytest.raises(ValueError, match="not an 8-bit image"):
        writer.write(colour.astype(np.float32), "a", "y")


def register_bad_datasets():
    boxes = tfds.features.Sequence(
        {"box": tfds.features.BBoxFeature(), "label": tfds.features.ClassLabel(num_classes=2)}
    )
    register_dataset("OnlyBoxes", {}, image=tfds.features.Image(), objects=boxes)
    register_dataset("FloatImages", {}, **{
        **label_and_image("a", "b"), "image": tfds.features.Image(shape=(None, None, 1), dtype=np.float32),
    })  # fmt: skip
    register_dataset("NoNetwork", ConnectionError("no route to host\nand a page more"), **label_and_image("a", "b"))
    register_dataset("OneSplit", {"train": [{"image": encoded(), "label": number} for number in (0, 1)]},
             **label_and_image("a", "b"))  # fmt: skip
    register_dataset("Unlabelled", {"test": [{"image": encoded(), "label": -1}]}, **label_and_image("a", "b"))


@pytest.fixture(scope="module")
def bad_datasets():
    register_bad_datasets()


@pytest.mark.parametrize("arguments, message", [
    (["--source=tfds:colorectal_histolgy"], "unknown to TensorFlow Datasets; did you mean colorectal_histology"),
    (["--source=tfds:ebhi_segg"], "did you mean ebhi_seg"),
    (["--source=tfds:zzzzzzzz"], "see https://www.tensorflow.org/datasets/catalog"),
    (["--source=tfds:colorectal_histology:9.9.9"], "only: 2.0.0"),
    (["--source=tfds:ebhi/300x"], "BuilderConfig 300x not found"),
    (["--source=tfds:../etc"], "cannot be opened"),
    (["--source=tfds:"], "give NAME"),
    (["--source=tfds:only_boxes"], "it needs one Image and one ClassLabel and has image (Image), objects (Sequence)"),
    (["--source=tfds:float_images"], "floating-point"),
    (["--source=tfds:no_network"], "(ConnectionError: no route to host); check the network"),
    (["--source=tfds:one_split", "--split=manifest"], "tfds:one_split has only train"),
    (["--source=tfds:one_split", "--group-regex=case"], "finds no group in 'a/train-00000"),
    (["--source=tfds:one_split", "--classes=a,c"], "unknown label 'b' at b/train-00000"),
    (["--source=tfds:one_split", "--manifest=x.csv"], "give NAME and no --manifest"),
    (["--source=tfds:one_split", "--scale=2"], "only for --source=phantom"),
    (["--source=tfds:unlabelled"], "no labelled images"),
    (["--source=tfds:ebhi_seg"], "tfds/downloads/manual does not exist: download EBHI-SEG from https://figshare.com/"),
    (["--source=tfds:ebhi_seg", "--manual-dir=EMPTY"], "EMPTY is empty: download EBHI-SEG from"),
    (["--source=tfds:ebhi_seg", "--manual-dir=OTHER"], "OTHER has damaged.zip, slides, but no class folders"),
    (["--source=tfds:ebhi_seg", "--manual-dir=HALF"], "HALF: no images of serrated_adenoma, adenocarcinoma"),
    (["--source=tfds:ebhi", "--manual-dir=UNKNOWN"], "the magnification of EBHI/Normal/a.png is not known"),
    (["--source=SLIDES"], "only for --source=tfds:NAME"),
])  # fmt: skip
def test_bad_datasets_are_one_line_exit_two_and_nothing_written(
    tmp_path, monkeypatch, capsys, bad_datasets, arguments, message
):
    monkeypatch.chdir(tmp_path)
    for name in ("EMPTY", "OTHER/slides", "HALF", "UNKNOWN/EBHI/Normal"):
        (tmp_path / name).mkdir(parents=True)
    with zipfile.ZipFile(tmp_path / "OTHER" / "damaged.zip", "w") as archive:
        archive.writestr("Normal/image/a.png", encoded("PNG"))
    whole = (tmp_path / "OTHER" / "damaged.zip").read_bytes()
    (tmp_path / "OTHER" / "damaged.zip").write_bytes(whole[: len(whole) // 2])
    if "HALF" in arguments[-1]:
        write_published(tmp_path / "HALF" / "EBHI-SEG", SIX[:4])
    (tmp_path / "UNKNOWN" / "EBHI" / "Normal" / "a.png").write_bytes(encoded("PNG"))
    assert run(*arguments, "--out=new/data", "--data-dir=tfds", "--image-size=16") == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("error: ") and message in lines[-1]
    assert not (tmp_path / "new").exists()


def test_the_error_without_tensorflow_names_the_package_to_install(tmp_path):
    code = (
        "import sys; sys.modules['tensorflow'] = None\n"
        "from dim_jax import prepare; from dim_jax.cli import command_line\n"
        f"sys.exit(command_line.run(prepare.main, ['--source=tfds:ebhi', '--out={tmp_path / 'data'}']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "needs tensorflow-datasets" in done.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []
