"""Blind reviews: what is shown, that the page gives nothing away, and the scores of readers with known answers."""

import base64
import io
import itertools
import json
import re
import shutil
import time

import numpy as np
import pytest
from chromium import CHROMIUM, Browser
from hostile_inputs import EVIL, assert_harmless
from PIL import Image

from dim_jax import review
from dim_jax.cli import command_line
from dim_jax.data import dataset as datasets
from dim_jax.data.preparation import prepare_dataset
from dim_jax.evaluation.agreement import cohen_kappa, fleiss_kappa, proportion
from dim_jax.gan import pool_writer, pools, review_key, review_scores, review_votes
from dim_jax.gan.review_answers import Answer
from dim_jax.reporting import review_page
from dim_jax.runs import files

CLASSES = ("normal", "polyp")
SIDE, CASES, NUM = 24, 14, 10
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


def field(seed, side):
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BILINEAR)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two classes of 14 cases with two fields each: JPEGs and PNGs of another size than the generated images."""
    root = tmp_path_factory.mktemp("source")
    for number, label in enumerate(CLASSES):
        (root / "slides" / label).mkdir(parents=True)
        for case in range(CASES):
            for view in range(2):
                suffix = ".jpg" if case % 2 else ".png"
                path = root / "slides" / label / f"{label}{case}-{view}{suffix}"
                field(1000 * number + 10 * case + view, 40).save(path)
    return prepare_dataset(str(root / "slides"), root / "data", image_size=SIDE, group_regex=r"([a-z]+\d+)-")


@pytest.fixture(scope="module")
def pool(data, tmp_path_factory):
    root = tmp_path_factory.mktemp("pools") / "pool"
    origin = {"workdir": "runs/gan", "checkpoint_step": 5, "model_sha256": "ab" * 32, "resize": "squash"}
    split = datasets.open_dataset(data).split_sha256
    for number, label in enumerate(CLASSES):
        writer = pool_writer.PoolWriter(root, label, split_sha256=split, **origin)
        writer.list(writer.write((np.array(field(5000 + 100 * number + seed, SIDE)) for seed in range(12)), range(12)))
    return root


def make(pool, data, out, *more):
    return command_line.run(review.main, [f"--pool={pool}", f"--data={data}", f"--out={out}", *more])


@pytest.fixture(scope="module")
def page(pool, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("review") / "review.html"
    assert make(pool, data, out, f"--num={NUM}") == 0
    return out


def key_of(page):
    return review_key.load(page.with_name("review_key.json"))


def data_of(page):
    text = page.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="review">(.*?)</script>', text)[1])


def error_line(capsys):
    lines = [line for line in capsys.readouterr().err.strip().splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


def answers_of(page, reader, verdicts, **changes):
    """Writes a file as the page saves it, with the label of the key and quality 3, and returns its path."""
    key = key_of(page)
    entries = [
        {"number": number, "verdict": verdict, "quality": 3, "class": image.label, "note": ""}
        for number, (verdict, image) in enumerate(zip(verdicts, key.images, strict=True), 1)
    ]
    path = page.with_name(f"{reader}.json")
    path.write_text(json.dumps({"format": 1, "review": key.digest, "reader": reader, "answers": entries} | changes))
    return path


def wrong_for(page, numbers):
    """The true verdicts, reversed at some places."""
    other = {"real": "generated", "generated": "real"}
    truths = [image.truth for image in key_of(page).images]
    return [other[truth] if number in numbers else truth for number, truth in enumerate(truths)]


def score(page, *paths, out=""):
    more = [f"--out={out}"] if out else []
    return command_line.run(
        review.main, ["--score", *map(str, paths), f"--key={page.with_name('review_key.json')}", *more]
    )


def test_as_many_real_as_generated_images_of_each_class_from_different_cases_and_never_from_test(page, data):
    key, dataset = key_of(page), datasets.open_dataset(data)
    for label in CLASSES:
        real = [image for image in key.images if image.label == label and image.truth == "real"]
        generated = [image for image in key.images if image.label == label and image.truth == "generated"]
        assert len(real) == len(generated) == NUM
        assert len({image.case for image in real}) == NUM
        held_out = {dataset.manifest.rows[row].sha256 for row in dataset.rows("test")}
        assert not held_out & {image.sha256 for image in real}
        # All validation cases come before the first training case.
        rows = [dataset.manifest.rows[row] for row in dataset.rows("val")]
        validation = {row.group for row in rows if row.label == label}
        assert {image.case for image in real if image.part == "val"} == validation


def test_pictures_of_both_kinds_are_alike_in_format_size_tables_and_length(page):
    key, kinds = key_of(page), {"real": set(), "generated": set()}
    for picture, image in zip(data_of(page)["pictures"], key.images, strict=True):
        encoded = base64.b64decode(picture)
        with Image.open(io.BytesIO(encoded)) as opened:
            opened.load()
            tables = tuple(tuple(table) for table in opened.quantization.values())
            kinds[image.truth].add((opened.format, opened.size, opened.mode, tables, tuple(opened.info), len(encoded)))
    assert kinds["real"] == kinds["generated"] and len(kinds["real"]) == 1


def test_the_page_names_neither_files_nor_cases_nor_which_image_is_real(page):
    text = page.read_text(encoding="utf-8")
    bare = re.sub(r'"pictures":\[.*?\]', "", text)
    key = key_of(page)
    for image in key.images:
        for secret in (image.path.rsplit("/", 1)[1], image.sha256, image.picture_sha256, image.case or image.sha256):
            assert secret not in bare
    assert not re.search(r"seed\d|truth|\bval\b|\btrain\b|https?:", bare)
    assert set(data_of(page)) == {"format", "digest", "classes", "pictures"}


def test_order_is_mixed_and_depends_on_the_seed_and_not_on_the_call(page, pool, data, tmp_path):
    truths = [image.truth for image in key_of(page).images]
    runs = 1 + sum(one != other for one, other in itertools.pairwise(truths))
    assert 10 <= runs <= 32  # 21 on average, if real and generated images are mixed
    copies = tmp_path / "pools" / "pool"
    shutil.copytree(pool, copies)
    again, other = tmp_path / "a" / "review.html", tmp_path / "b" / "review.html"
    assert make(copies, data, again, f"--num={NUM}") == 0 and make(pool, data, other, f"--num={NUM}", "--seed=1") == 0
    assert data_of(again)["pictures"] == data_of(page)["pictures"] != data_of(other)["pictures"]


def test_the_same_command_writes_the_same_files_and_another_review_keeps_the_key(page, pool, data, capsys):
    before = [path.read_bytes() for path in (page, page.with_name("review_key.json"))]
    assert make(pool, data, page, f"--num={NUM}") == 0
    assert make(pool, data, page, f"--num={NUM}", "--seed=3") == 2
    assert "is of another review" in error_line(capsys)
    assert [path.read_bytes() for path in (page, page.with_name("review_key.json"))] == before


def test_fewer_real_images_mean_fewer_generated_ones_and_a_note(pool, data, tmp_path, capsys):
    assert make(pool / "polyp", data, tmp_path / "a.html", "--num=50") == 0
    counts = [image.truth for image in review_key.load(tmp_path / "a_key.json").images]
    assert counts.count("real") == counts.count("generated") == 12
    out = capsys.readouterr().out
    assert "polyp: 12 generated and 12 real images, fewer than --num=50" in out and "training cases" in out


def test_known_answers_give_known_scores(page, pool, capsys, tmp_path):
    a, b = set(range(0, 40, 5)), {0, 5, 7, 8}
    verdicts = wrong_for(page, a)
    verdicts[1:5] = ["unsure"] * 4
    paths = answers_of(page, "A", verdicts), answers_of(page, "B", wrong_for(page, b))
    assert score(page, *paths, out=tmp_path / "s.html") == 0
    scores, key = files.read_json(tmp_path / "s.json"), key_of(page)
    of_a, of_b = (scores["scores"][name]["all"] for name in "AB")
    assert (of_a["accuracy"]["count"], of_a["accuracy"]["total"], of_a["unsure"]) == (28, 36, 4)
    assert (of_b["accuracy"]["count"], of_b["accuracy"]["total"], of_b["unsure"]) == (36, 40, 0)
    # R: binom.test(36, 40)$conf.int
    assert (of_b["accuracy"]["low"], of_b["accuracy"]["high"]) == pytest.approx((0.7634, 0.9721), abs=1e-4)
    for label, record in scores["scores"]["B"]["classes"].items():
        places = [number for number, image in enumerate(key.images) if image.label == label]
        assert record["accuracy"]["count"] == len(places) - len(b & set(places)) and len(places) == 20
    for label in key.classes:
        card = files.read_json(pools.class_folder(pool, label) / "card.json")
        rows = card["sections"]["Blind review"]["tables"]["Readers"]
        expected = [scores["scores"][name]["classes"][label]["accuracy"] for name in "AB"]
        assert [row["right"] for row in rows if row["review"] == key.digest[:12]] == expected
    fooled = {image["number"] - 1: image["fooled"] for image in scores["images"] if image["fooled"]}
    assert fooled == {place: [name for name, wrong in (("A", a), ("B", b)) if place in wrong] for place in a | b}
    assert scores["majority"]["all"]["accuracy"]["total"] == 28  # those on which both decided alike
    out = capsys.readouterr().out
    assert "A: right for 28 of 36 (78 %, 61 to 90)" in out and "Cohen's kappa of A and B: verdict" in out
    text = (tmp_path / "s.html").read_text(encoding="utf-8")
    assert "not found" not in text and text.count("<img") == len(a | b)


def test_patterns_are_expanded_and_the_key_names_the_output(page, tmp_path, capsys):
    folder = shutil.copytree(page.parent, tmp_path / "r")
    for name in "AB":
        answers_of(page, name, wrong_for(page, {1})).replace(folder / f"answers_{name}.json")
    key = f"--key={folder / 'review_key.json'}"
    for _ in range(2):
        assert command_line.run(review.main, [f"--score={folder}/answers_*.json", key]) == 0
    assert files.read_json(folder / "review_score.json")["readers"][1]["complete"] == 40
    assert (folder / "review_score.html").is_file() and "2 readers" in capsys.readouterr().out


def test_incomplete_answers_are_a_warning_with_numbers(page, capsys, tmp_path):
    path = answers_of(page, "C", wrong_for(page, set()))
    record = files.read_json(path)
    record["answers"] = record["answers"][:30]
    record["answers"][0]["verdict"] = None
    path.write_text(json.dumps(record))
    assert score(page, path, out=tmp_path / "s.html") == 0
    warning = "C answered 29 of 40 images in full; missing: 11 verdict, 10 quality, 10 class"
    assert f"warning: {warning}" in capsys.readouterr().err
    assert warning in (tmp_path / "s.html").read_text(encoding="utf-8")


def answer(changes):
    return lambda record: record["answers"][3].update(changes)


BROKEN = {
    "broken JSON": (b"{", "is not valid JSON"),
    "no answers": (b"{}", "does not hold the answers of a review"),
    "another page": (lambda record: record.update(review="0" * 64), "answers another page (000000000000)"),
    "a number out of range": (answer({"number": 41}), "answer 3: 'number' must be 1 to 40, not 41"),
    "an image answered twice": (answer({"number": 1}), "answer 3: image 1 is answered twice"),
    "an unknown verdict": (answer({"verdict": "fake"}), "'verdict' must be real, generated, unsure or null"),
    "a quality of 6": (answer({"quality": 6}), "'quality' must be 1 to 5 or null, not 6"),
    "a quality that is true": (answer({"quality": True}), "'quality' must be 1 to 5"),
    "a list for a verdict": (answer({"verdict": ["real"]}), "'verdict' must be"),
    "an unknown class": (answer({"class": "x"}), "'class' must be normal, polyp"),
    "a nameless reader": (lambda record: record.update(reader=" "), "'reader' is empty"),
    "no answer to any image": (lambda record: record["answers"].clear(), "answered none of the 40 images"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_answers_are_one_line_and_nothing_is_written(name, page, tmp_path, capsys):
    change, words = BROKEN[name]
    path = answers_of(page, "D", wrong_for(page, set())).replace(tmp_path / "d.json")
    if isinstance(change, bytes):
        path.write_bytes(change)
    else:
        record = files.read_json(path)
        change(record)
        path.write_text(json.dumps(record))
    assert score(page, path, out=tmp_path / "s.html") == 2
    assert words in error_line(capsys) and [file.name for file in tmp_path.iterdir()] == ["d.json"]


def test_one_reader_twice_and_a_changed_key_are_refused(page, tmp_path, capsys):
    first = answers_of(page, "E", wrong_for(page, set())).replace(tmp_path / "first.json")
    second = answers_of(page, "e", wrong_for(page, set())).replace(tmp_path / "second.json")
    assert score(page, first, second, out=tmp_path / "s.html") == 2
    assert "are both of reader 'e'" in error_line(capsys)
    assert score(page, tmp_path / "none*.json", out=tmp_path / "s.html") == 2
    assert "none*.json: no such file" in error_line(capsys)
    record = files.read_json(page.with_name("review_key.json"))
    record["images"][0]["truth"] = {"real": "generated", "generated": "real"}[record["images"][0]["truth"]]
    changed = tmp_path / "changed_key.json"
    changed.write_text(json.dumps(record))
    assert command_line.run(review.main, [f"--score={first}", f"--key={changed}"]) == 2
    assert "was changed since the review was made" in error_line(capsys)
    assert not list(tmp_path.glob("*.html"))


def test_bad_input_is_one_line_and_writes_nothing(pool, data, tmp_path, capsys):
    foreign = shutil.copytree(pool, tmp_path / "foreign")
    for path in foreign.glob("*/pool.json"):
        path.write_text(path.read_text().replace(files.read_json(path)["split_sha256"], "0" * 64))
    unknown = shutil.copytree(pool, tmp_path / "unknown")
    path = unknown / "polyp" / "pool.json"
    path.write_text(path.read_text().replace('"class": "polyp"', '"class": "wart"'))
    (tmp_path / "taken.html").write_text("mine")
    before = sorted(path.name for path in tmp_path.iterdir())
    for arguments, words in (
        ((tmp_path / "gone", data, tmp_path / "a.html"), "no such folder; make a pool"),
        ((pool, tmp_path / "gone", tmp_path / "a.html"), "manifest.json: no such file"),
        ((foreign, data, tmp_path / "a.html"), "was trained on another split"),
        ((unknown, data, tmp_path / "a.html"), "unknown class 'wart'; the classes of"),
        ((pool, data, tmp_path), "is a folder; give the path of a file"),
        ((pool, data, tmp_path / "a.txt"), "must end in .html"),
        ((pool, data, tmp_path / "taken.html"), "would overwrite"),
        ((pool, data, tmp_path / "a.html", "--num=0"), "--num=0 must be at least 1"),
        ((pool, data, tmp_path / "a.html", "--key=k.json"), "--key can't be given with --pool"),
    ):
        assert make(*arguments) == 2
        assert words in error_line(capsys)
    assert command_line.run(review.main, [f"--pool={pool}"]) == 2
    assert "--data is missing" in error_line(capsys)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize("evil", EVIL)
def test_hostile_class_names_are_text(evil):
    text = review_page.render("ab" * 32, ["AAAA"], [evil, "b"], 24, review_key.VERDICTS, review_key.QUALITIES, 1)
    without_scripts = re.sub(r"<script(?: type=\"application/json\" id=\"review\")?>.*?</script>", "", text, flags=re.S)
    assert_harmless(without_scripts, is_page=True)
    assert json.loads(re.search(r'id="review">(.*?)</script>', text)[1])["classes"] == [evil, "b"]


def test_kappas_and_intervals_equal_published_values():
    # Fleiss (1971), table 1 has raters of psychiatric diagnoses; this smaller table and its kappa of 0.210 are the
    # usual worked example: ten subjects, fourteen raters, five categories.
    counts = [[0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1]]
    counts += [[7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7]]
    rows = [[value for value, count in enumerate(row) for _ in range(count)] for row in counts]
    assert fleiss_kappa(rows) == pytest.approx(0.210, abs=5e-4)
    # 20 yes/yes, 5 yes/no, 10 no/yes, 15 no/no
    one, other = [1] * 25 + [0] * 25, [1] * 20 + [0] * 5 + [1] * 10 + [0] * 15
    assert cohen_kappa(one, other) == pytest.approx(0.4)
    assert cohen_kappa([1, 1], [1, 1]) is None and fleiss_kappa([["a", "a", "a"]]) is None
    assert cohen_kappa([1, 2, 3, 4], [1, 2, 3, 5], is_ordinal=True) > cohen_kappa([1, 2, 3, 4], [1, 2, 3, 5])
    zero = proportion(0, 10)
    assert (zero.low, zero.high) == pytest.approx((0, 1 - 0.025**0.1))
    assert proportion(0, 0).value is None


def test_a_majority_needs_more_than_half_of_those_who_answered():
    given = [[Answer("real", 2, "a")], [Answer("real", 4, "b")], [Answer("generated", 5, "c")], [Answer()]]
    assert review_scores.majority(given) == (Answer("real", 4, ""),)
    assert review_scores.majority(given[:2] + [[Answer("generated")]] * 2)[0].verdict == "unsure"
    assert review_scores.majority([[Answer()]]) == (Answer(),)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ([(3, "polyp")], None),
        ([(2, "polyp")], "rejected_by_readers"),
        ([(5, "normal")], "rejected_by_readers"),
        ([(5, "")], "rejected_by_readers"),  # none of the classes
        ([(3, "polyp"), (1, "polyp")], "rejected_by_readers"),  # half of the readers
        ([(3, "polyp"), (None, "polyp"), (1, None)], None),
        ([(None, None), (4, None)], None),
        ([(None, None)], "not_reviewed"),
    ],
)
def test_an_image_is_rejected_if_half_of_its_readers_object(given, reason, tmp_path):
    answers = {f"r{number}": {"quality": one, "class": label} for number, (one, label) in enumerate(given)}
    image = {"truth": "generated", "label": "polyp", "sha256": "ab", "answers": answers}
    real = {"truth": "real", "label": "polyp", "sha256": "cd", "answers": answers}
    scores = {"format": 1, "review": "ef", "split_sha256": "", "readers": [], "scores": {}, "images": [image, real]}
    votes = review_votes.load(files.write_json(tmp_path / "scores.json", scores), tmp_path)
    assert votes.reason("ab") == reason
    assert votes.reason("cd") == "not_reviewed"  # a real image is never selected


@pytest.fixture(scope="module")
def browser():
    browser = Browser()
    yield browser
    browser.close()


def value(browser, selector, name="textContent"):
    return browser.evaluate(f"document.querySelector({json.dumps(selector)}).{name}")


@needs_browser
def test_a_reader_answers_by_keys_and_the_saved_file_gets_the_known_score(browser, page, tmp_path, capsys):
    wrong, key = {0, 3, 17}, key_of(page)
    verdicts = wrong_for(page, wrong)
    verdicts[5] = "unsure"
    browser.save_downloads(tmp_path)
    browser.open(page)
    browser.evaluate("document.getElementById('reader').focus()")
    browser.write("Dr. Ä")
    browser.evaluate("document.activeElement.blur()")
    for number, (verdict, image) in enumerate(zip(verdicts, key.images, strict=True)):
        assert value(browser, "#position") == f"Field {number + 1} of 40"
        assert browser.evaluate("document.getElementById('field').decode().then(() => true)")
        browser.press(verdict[0], str(1 + number % 5), "ab"[CLASSES.index(image.label)])
        if number == 2:
            browser.press("n")
            browser.write("r1 blurred")  # in a note, letters and digits are no answers
            browser.press("Escape")
        if number == 20:  # closing and opening the page continues where it was
            browser.open(page)
            assert value(browser, "#position") == "Field 21 of 40" and value(browser, "#reader", "value") == "Dr. Ä"
        browser.press("Enter" if number % 2 else "ArrowRight")
    assert value(browser, "#progress-text") == "40 of 40 fields answered in full"
    browser.evaluate("document.getElementById('save').click()")
    deadline = time.monotonic() + 30
    while not (saved := list(tmp_path.glob("*.json"))):
        assert time.monotonic() < deadline, "nothing was saved"
        time.sleep(0.05)
    assert browser.complaints == [] and all(one.startswith(("file:", "data:", "blob:")) for one in browser.requests)
    record = files.read_json(saved[0])
    assert [one["verdict"] for one in record["answers"]] == verdicts and record["answers"][2]["note"] == "r1 blurred"
    assert [one["quality"] for one in record["answers"]] == [1 + number % 5 for number in range(40)]
    assert score(page, saved[0], out=tmp_path / "s.html") == 0
    assert "Dr. Ä: right for 36 of 39" in capsys.readouterr().out


@needs_browser
def test_the_page_asks_for_a_name_and_says_what_is_missing(browser, page):
    browser.open(page)
    browser.evaluate("localStorage.clear()")
    browser.open(page)
    browser.press("g", "ArrowRight", "ArrowLeft")
    assert (
        value(browser, "input[value=generated]", "checked") and value(browser, "#fields button", "className") == "part"
    )
    browser.evaluate("document.getElementById('save').click()")
    assert "name" in value(browser, "#message") and browser.evaluate("document.activeElement.id") == "reader"
    browser.write("A")
    browser.evaluate("document.getElementById('save').click()")
    assert "40 of 40 fields are not answered in full" in value(browser, "#message")


@needs_browser
def test_damaged_storage_begins_anew(browser, page):
    digest = data_of(page)["digest"]
    for stored in ("{", "null", '{"answers": {"0": {"verdict": "x", "quality": 9}}, "place": 99, "reader": 5}'):
        browser.open(page)
        browser.evaluate(f"localStorage.setItem('dim_jax review {digest}', {json.dumps(stored)})")
        browser.open(page)
        assert value(browser, "#position") == "Field 1 of 40" and browser.complaints == []
        assert value(browser, "#progress-text") == "0 of 40 fields answered in full"


@needs_browser
def test_zoom_keeps_the_field_in_its_frame(browser, page):
    browser.open(page)
    box = "document.getElementById('field').getBoundingClientRect()"
    width = browser.evaluate(f"{box}.width")
    browser.press("+", "+")
    assert browser.evaluate(f"{box}.width") == pytest.approx(2.25 * width, rel=0.01)
    frame = "document.getElementById('viewer').getBoundingClientRect()"
    for _ in range(20):
        browser.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowLeft", modifiers=8)
    assert browser.evaluate(f"{box}.left") == pytest.approx(browser.evaluate(f"{frame}.left"), abs=1)
    browser.press("0")
    assert browser.evaluate(f"{box}.width") == pytest.approx(width, rel=0.01)


@needs_browser
@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1200])
def test_the_pages_fit_the_window(browser, page, tmp_path, width, colours):
    assert score(page, answers_of(page, "F", wrong_for(page, {1, 2})), out=tmp_path / "s.html") == 0
    for one in (page, tmp_path / "s.html"):
        browser.open(one, width=width, colours=colours)
        assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth") and browser.complaints == []
