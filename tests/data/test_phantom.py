"""The phantom dataset: its plan, reproducible rendering, and properties of stained tissue."""

import os
import subprocess
import sys
from collections import Counter, defaultdict
from itertools import chain, pairwise

import numpy as np
import pytest
from PIL import Image

from dim_jax.cli import command_line
from dim_jax.data import phantom
from dim_jax.data.phantom import CLASSES, COUNTS, PhantomImage, draw, plan
from dim_jax.data.phantom_tissue import GRID, Tissue, _Occupancy, compose


def _spread(label: str, number: int) -> list[PhantomImage]:
    """Returns images of `number` different cases of a class."""
    cases = {image.case: image for image in plan() if image.label == label}
    return list(cases.values())[:: len(cases) // number][:number]


def _dyes(image: np.ndarray, stains: np.ndarray, light: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unmixes RGB (N, N, 3) into amounts of dye (pixels, 2) and the residual density (pixels, 3)."""
    density = -np.log(np.maximum(image.reshape(-1, 3), 1) / light)
    amounts = density @ np.linalg.pinv(stains)
    return amounts, density - amounts @ stains


def _in_epithelium(part: np.ndarray, tissue: Tissue) -> float:
    """Returns the mean of a map over the epithelium."""
    return float((part * tissue.epithelium).sum() / tissue.epithelium.sum())


@pytest.fixture(scope="module")
def tissues() -> dict[str, list[Tissue]]:
    """Structure maps of twelve cases per class."""
    return {label: [phantom.field_tissue(image, 160) for image in _spread(label, 12)] for label in CLASSES}


def test_full_plan_has_the_counts_of_ebhi() -> None:
    counts = Counter(image.label for image in plan())
    assert tuple(counts[label] for label in CLASSES) == COUNTS
    assert len(set(plan())) == sum(COUNTS), "an image is planned twice"
    assert len({image.path for image in plan()}) == sum(COUNTS)


@pytest.mark.parametrize("scale", [0.01, 0.1, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_class_can_be_split_by_case_at_every_scale(scale: float, seed: int) -> None:
    images = plan(scale, seed)
    for label, count in zip(CLASSES, COUNTS, strict=True):
        members = Counter(image.case for image in images if image.label == label)
        assert sum(members.values()) == max(9, round(count * scale))
        assert len(members) >= 5
        assert max(members.values()) <= 12
    classes_of = defaultdict(set)
    for image in images:
        classes_of[image.case].add(CLASSES.index(image.label))
    spans = [classes for classes in classes_of.values() if len(classes) > 1]
    assert spans, "no case spans two classes"
    assert len(spans) < len(classes_of) / 5
    assert all(len(classes) == 2 and max(classes) - min(classes) == 1 for classes in spans)


def test_case_sizes_vary_and_average_about_five() -> None:
    sizes = Counter((image.label, image.case) for image in plan()).values()
    assert 4 < np.mean(list(sizes)) < 6
    assert min(sizes) <= 2 and max(sizes) >= 10


def test_plan_depends_on_its_seed_alone() -> None:
    assert plan(0.3, 4) == plan(0.3, 4)
    assert plan(0.3, 4) != plan(0.3, 5)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_scale_that_is_not_a_positive_number_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="scale"):
        plan(scale)


def test_unknown_class_and_tiny_size_are_refused() -> None:
    with pytest.raises(ValueError, match="serrated"):
        draw(PhantomImage("serrated", "case0001", 1))
    with pytest.raises(ValueError, match="size=4"):
        draw(PhantomImage("normal", "case0001", 1), size=4)


@pytest.mark.parametrize("size", [64, 299])
def test_same_arguments_draw_the_same_bytes(size: int) -> None:
    image = PhantomImage("polyp", "case0007", 2)
    first, second = draw(image, size, seed=3), draw(image, size, seed=3)
    assert first.shape == (size, size, 3) and first.dtype == np.uint8
    np.testing.assert_array_equal(first, second)


def test_another_process_draws_the_same_bytes() -> None:
    # Python's hash of a string differs between processes, so this fails if it seeds anything.
    program = (
        "import zlib; from dim_jax.data.phantom import *\n"
        "print(zlib.crc32(draw(PhantomImage('low_grade_in', 'case0100', 1), 64).tobytes()))"
    )
    runs = [subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True) for _ in "ab"]
    assert runs[0].stdout == runs[1].stdout != ""


def test_rendering_does_not_depend_on_earlier_calls() -> None:
    image, other = PhantomImage("normal", "case0001", 1), PhantomImage("adenocarcinoma", "case0300", 4)
    alone = draw(image, 64)
    draw(other, 64)
    np.testing.assert_array_equal(alone, draw(image, 64))


def test_mean_brightness_of_a_known_field_is_unchanged() -> None:
    # Loose enough for other versions of numpy and Pillow, tight enough to detect a changed random stream or colour.
    picture = draw(PhantomImage("normal", "case0001", 1), 64).astype(float)
    np.testing.assert_allclose(picture.mean((0, 1)), [124.6, 77.9, 163.9], atol=1.0)
    np.testing.assert_allclose([picture[:32].mean(), picture[:, :32].mean()], [120.2, 120.1], atol=1.0)


def test_another_field_case_class_or_seed_gives_another_image() -> None:
    start = PhantomImage("polyp", "case0020", 1)
    pictures = [
        draw(start, 64),
        draw(PhantomImage("polyp", "case0020", 2), 64),
        draw(PhantomImage("polyp", "case0021", 1), 64),
        draw(PhantomImage("low_grade_in", "case0020", 1), 64),
        draw(start, 64, seed=1),
    ]
    for index, first in enumerate(pictures):
        for second in pictures[index + 1 :]:
            correlation = np.corrcoef(first.ravel(), second.ravel())[0, 1]
            assert correlation < 0.6, "two different fields show the same tissue"


@pytest.mark.parametrize("label", CLASSES)
def test_same_field_shows_the_same_tissue_at_every_size(label: str) -> None:
    for image in _spread(label, 3):
        small = draw(image, 64).astype(float)
        large = Image.fromarray(draw(image, 299)).resize((64, 64), Image.Resampling.BICUBIC)
        assert np.corrcoef(small.ravel(), np.asarray(large, float).ravel())[0, 1] > 0.9
        assert abs(small.mean() - np.asarray(large).mean()) < 4


@pytest.mark.parametrize("label", CLASSES)
def test_optical_densities_are_in_the_plane_of_the_two_stains(label: str) -> None:
    for image in _spread(label, 3):
        appearance = phantom.case_appearance(image.case)
        amounts, unexplained = _dyes(draw(image, 96), appearance.stains, appearance.light)
        # Only sensor noise, rounding and uneven light may leave the plane; 8-bit black is not measurable.
        assert np.sqrt(np.mean(unexplained**2)) < 0.08
        assert np.percentile(amounts, 1) > -0.15, "light is created, not absorbed"
        assert amounts[:, 0].std() > 0.2 and amounts[:, 1].std() > 0.1, "a stain does not vary over the tissue"


def test_amounts_of_dye_are_never_negative(tissues: dict[str, list[Tissue]]) -> None:
    for tissue in chain.from_iterable(tissues.values()):
        assert tissue.haematoxylin.min() >= 0 and tissue.eosin.min() >= 0
        for part in (tissue.nuclei, tissue.epithelium, tissue.lumen):
            assert part.min() >= 0 and part.max() <= 1
        assert np.isfinite(tissue.haematoxylin).all() and np.isfinite(tissue.eosin).all()


def test_bodies_follow_the_density_and_the_directions_without_overlap() -> None:
    weight = np.zeros((GRID, GRID))
    weight[100:140, 10:90] = 1
    upright = np.stack([np.ones((GRID, GRID)), np.zeros((GRID, GRID))])
    rng = np.random.default_rng(0)
    bodies = _Occupancy().scatter(rng, weight, 1000, long=4.0, wide=1.5, along=upright, disorder=0.0)
    assert 30 < len(bodies) < 500
    y, x = bodies[:, 0], bodies[:, 1]
    assert y.min() > 99 and y.max() < 140 and x.min() > 9 and x.max() < 90
    np.testing.assert_allclose(bodies[:, 2], np.pi / 2, atol=1e-6)
    down, right = np.abs(y[:, None] - y), np.abs(x[:, None] - x)
    np.fill_diagonal(down, np.inf)
    # A long body excludes others along its length, but not close to its sides.
    assert down[right < 0.4].min() > 2.5
    assert right[down < 0.4].min() < 2.0


def test_nuclei_hold_the_haematoxylin(tissues: dict[str, list[Tissue]]) -> None:
    for tissue in chain.from_iterable(tissues.values()):
        nuclear = tissue.haematoxylin[tissue.nuclei > 0.9].mean()
        cytoplasmic = tissue.haematoxylin[(tissue.epithelium > 0.9) & (tissue.nuclei < 0.1)].mean()
        assert nuclear > 2 * cytoplasmic


def test_nuclear_crowding_and_dye_rise_with_the_class_and_neighbours_overlap(tissues: dict[str, list[Tissue]]) -> None:
    crowding, dye = (
        {label: np.array([_in_epithelium(getattr(t, part), t) for t in members]) for label, members in tissues.items()}
        for part in ("nuclei", "haematoxylin")
    )
    assert np.all(np.diff([crowding[label].mean() for label in CLASSES]) > 0.01)
    assert np.all(np.diff([dye[label].mean() for label in CLASSES]) > 0.02)
    for lower, upper in pairwise(CLASSES):
        assert crowding[lower].max() > crowding[upper].min(), f"{lower} and {upper} do not overlap"
    assert crowding["normal"].max() < crowding["adenocarcinoma"].min(), "the two ends of the scale overlap"


def test_grades_of_neighbouring_classes_overlap_but_keep_their_centres() -> None:
    grades = np.array([[phantom.case_grade(label, f"case{case:04d}") for case in range(400)] for label in CLASSES])
    np.testing.assert_allclose(grades.mean(1), range(5), atol=0.07)
    wrong_side = np.mean(np.abs(grades[1:4] - np.arange(1, 4)[:, None]) > 0.5)
    assert 0.15 < wrong_side < 0.35


def test_crowding_rises_smoothly_with_the_grade() -> None:
    # With the same random numbers, crowding grows in small steps, without a jump between classes.
    crowding = []
    for grade in np.linspace(0, 4, 9):
        fields = [compose(np.random.Generator(np.random.PCG64(seed)), grade, 160) for seed in range(4)]
        crowding.append(np.mean([_in_epithelium(field.nuclei, field) for field in fields]))
    assert np.all(np.diff(crowding) > -0.02)
    assert np.diff(crowding).max() < 0.5 * (crowding[-1] - crowding[0])


@pytest.mark.parametrize("label", CLASSES)
def test_glands_stroma_and_lumens_are_present(label: str, tissues: dict[str, list[Tissue]]) -> None:
    assert 0.4 < np.mean([tissue.epithelium.mean() for tissue in tissues[label]]) < 0.75
    assert 0.02 < np.mean([(tissue.lumen > 0.5).mean() for tissue in tissues[label]]) < 0.3
    assert np.mean([1 - tissue.epithelium.mean() - tissue.lumen.mean() for tissue in tissues[label]]) > 0.1


def test_normal_shows_white_lumens_and_pale_goblets() -> None:
    shares = []
    for image in _spread("normal", 8):
        light = phantom.case_appearance(image.case).light
        share = np.mean(draw(image, 96).min(-1) > 0.85 * light.min())
        shares.append(share)
    assert np.mean(np.array(shares) > 0.01) >= 0.75
    assert np.mean(shares) < 0.3


def test_fields_of_a_case_are_stained_more_alike_than_cases() -> None:
    cases = [f"case{number:04d}" for number in range(500, 516)]
    # Ratios of the channels' mean brightness: the stain's hue, whatever the field shows.
    means = np.array([
        [draw(PhantomImage("low_grade_in", case, field), 64).mean((0, 1)) for field in range(4)] for case in cases
    ])  # fmt: skip
    hues = np.diff(np.log(means), axis=-1)
    within = hues.std(1).mean(0)
    between = hues.mean(1).std(0)
    assert np.all(between > 1.3 * within)


def test_write_renders_every_image_and_returns_its_rows(tmp_path) -> None:
    calls = []
    rows = phantom.write(tmp_path, 16, 0.001, seed=5, progress=lambda *counts: calls.append(counts))
    assert [row[1:] for row in rows] == [(image.label, image.case) for image in plan(0.001, 5)]
    assert calls == [(done, 45) for done in range(1, 46)]
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()) == sorted(
        row[0] for row in rows
    )
    for (path, label, case), image in list(zip(rows, plan(0.001, 5), strict=True))[::11]:
        assert path == f"{label}/{case}_{image.field:02d}.png"
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / path)), draw(image, 16, seed=5))


def test_write_by_several_processes_gives_the_same_files(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(phantom, "IMAGES_PER_PROCESS", 20)
    monkeypatch.setattr(phantom.os, "cpu_count", lambda: 2)
    calls = []
    rows = phantom.write(tmp_path, size=16, scale=0.001, progress=lambda done, total: calls.append(done))
    assert calls == list(range(1, 46))
    for (path, *_), image in list(zip(rows, plan(0.001), strict=True))[::9]:
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / path)), draw(image, 16))


def test_command_writes_a_contact_sheet_and_a_dataset(tmp_path, capsys) -> None:
    sheet = tmp_path / "sheet.png"
    phantom.main([f"--contact-sheet={sheet}", "--size=24", f"--write={tmp_path / 'set'}", "--scale=0.001"])
    assert "45 images" in capsys.readouterr().out
    width, height = Image.open(sheet).size
    assert width > 6 * 24 and height > 5 * 24
    with pytest.raises(ValueError, match="nothing to do"):
        phantom.main([])


def test_help_is_quick() -> None:
    before = os.times()
    done = subprocess.run([sys.executable, "-m", "dim_jax.data.phantom", "--help"], capture_output=True, text=True)
    after = os.times()
    assert done.returncode == 0 and "--contact-sheet" in done.stdout
    # Processor time, which hardly depends on the load of the machine.
    assert after.children_user - before.children_user < 4, "importing the phantom has become slow"


def test_one_class_can_be_written_alone(tmp_path, capsys):
    assert command_line.run(phantom.main, [f"--write={tmp_path}", "--size=16", "--scale=0.02", "--only=polyp"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["polyp"]
    assert "9 images of 5 cases" in capsys.readouterr().out
