"""Guessed expressions find patients in names as hospitals write them, and propose nothing where there are none."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dim_jax.data import groups, listing
from dim_jax.data.group_proposals import FEWEST_GROUPS, propose


def named(form, patients=8, images=4):
    return [
        form.format(patient=2012000 + 7 * p, image=i, cls="ab"[p % 2]) for p in range(patients) for i in range(images)
    ]


@pytest.mark.parametrize("form", [
    "{cls}/GT{patient}-1-400-{image:03}.jpg",
    "{cls}/{patient}_idx5_x{image}1_y1_class0.png",
    "{cls}/case_{patient} field {image}.tif",
    "{cls}/slide{image}_Patient-{patient}.png",
    "{cls}/{patient}/{image}.png",
    "{cls}/p{patient}/scan/{image}.png",
])  # fmt: skip
def test_the_patient_is_found(form):
    paths = named(form)
    best = propose(paths)[0]
    divided = [re.search(best.pattern, path)[1] for path in paths]
    patients = [re.search("(2012[0-9]{3})", path)[1] for path in paths]
    assert best.groups == 8 and len(set(zip(divided, patients, strict=True))) == 8


def test_barcodes_of_tcga_are_whole():
    paths = [f"a/TCGA-A{p}-A0{p}B-01Z-00-DX1_{i}.png" for p in range(6) for i in range(3)]
    assert propose(paths)[0].group == "TCGA-A0-A00B"


@pytest.mark.parametrize("paths", [
    [f"a/{number}.png" for number in range(40)],
    [f"{cls}/{cls}_{zoom}x_{number}.png" for cls in "ab" for zoom in (100, 400) for number in range(20)],
    [f"a/img_{number}.png" for number in range(40)],
    [f"a/{'x' * number}.png" for number in range(1, 40)],
    ["a/1-1.png"],
])  # fmt: skip
def test_numbers_of_images_are_no_patients(paths):
    assert propose(paths) == []


@given(st.lists(st.text("ab/12-_ .", min_size=1, max_size=12), min_size=1, max_size=40))
def test_whatever_is_proposed_is_accepted_by_prepare_and_divides_as_stated(paths):
    for proposal in propose(paths):
        images = [listing.ListedImage(path, "a") for path in paths]
        divided = {image.group for image in groups.from_paths(images, proposal.pattern)}
        assert len(divided) == proposal.groups >= FEWEST_GROUPS and proposal.group in divided
