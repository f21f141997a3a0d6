"""The page of a selection of generated images."""

import re

import selection_pages

from dim_jax.reporting import selection_page


def test_where_nothing_was_selected_it_shows_the_best_rejected_images_and_why(tmp_path):
    page = selection_pages.render(tmp_path)
    section = page.partition(f'aria-label="{selection_pages.REJECTED}"')[2].partition("<h3>Memorised")[0]
    assert "No image was selected" in section and "came furthest" in section
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", section)
    assert len(captions) == 6 and captions[0].startswith("far from the class · seed 5")
    assert captions[1].startswith("wrong class · seed 4")  # the most probable one of these
    other = page.partition(f'aria-label="{selection_pages.SELECTED}"')[2].partition("<h3>Memorised")[0]
    assert "came furthest" not in other
    for empty in ('<p class="missing">none</p>', '<p class="missing">nothing</p>'):
        assert empty not in page


def test_the_title_of_a_figure_says_what_it_shows(tmp_path):
    titles = re.findall(r"<figcaption>(Nearest training image[^<]*)", selection_pages.render(tmp_path))
    assert len(titles) == 4
    assert all(re.search(r"(closer|farther) than|about as far as", title) for title in titles)


def test_images_that_failed_a_later_test_are_better():
    entries = [
        {"reason": reason, "probability": 0.5, "seed": seed}
        for seed, reason in enumerate(("copy_of_training_image", "wrong_class", "duplicate_in_pool"))
    ]
    assert [entry["seed"] for entry in selection_page.best_rejected(entries)] == [2, 1, 0]
