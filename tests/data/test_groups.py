"""Groups: spellings of one name are one group, different names stay different, and words for missing are none."""

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dim_jax.data import groups, spellings
from dim_jax.data.listing import ListedImage, Listing, class_order, with_checked_labels

SEPARATORS = ("-", "_", " ", ".", "/", "  ", "\u2013", "\u00a0", " - ")
letters = st.sampled_from(["p", "case", "gt", "caf\u00e9", "x"])
numbers = st.integers(0, 120)
# Parts of a name: letters and numbers, such as ("gt", 2013, 7).
names = st.lists(letters | numbers, min_size=1, max_size=4).filter(
    lambda parts: any(type(part) is int for part in parts)
)


@st.composite
def spelling(draw, parts):
    """One way to write a name: capitals, zeros, separators, Unicode form and spaces around it."""
    text, before = "", None
    for part in parts:
        is_number = isinstance(part, int)
        word = str(part).zfill(draw(st.integers(1, 4))) if is_number else part
        if not is_number:
            word = draw(st.sampled_from([word, word.upper(), word.title()]))
        # Between two numbers a separator is part of the name.
        if before is not None and (draw(st.booleans()) or (is_number and before)):
            text += draw(st.sampled_from(SEPARATORS))
        text, before = text + word, is_number
    if draw(st.booleans()):
        text = "".join(chr(ord(character) + 0xFEE0) if "!" <= character <= "~" else character for character in text)
    text = unicodedata.normalize(draw(st.sampled_from(["NFC", "NFD"])), text)
    return draw(st.sampled_from(["", " ", "\u00a0", "\u200b"])) + text + draw(st.sampled_from(["", " ", "\t"]))


def same(parts):
    """The parts as they are compared: words that follow each other are one."""
    joined = []
    for part in parts:
        if joined and isinstance(part, str) and isinstance(joined[-1], str):
            joined[-1] += part
        else:
            joined.append(part)
    return joined


@given(names, names, st.data())
def test_spellings_of_a_name_have_one_key_and_other_names_another(one, other, data):
    first, second, third = data.draw(spelling(one)), data.draw(spelling(one)), data.draw(spelling(other))
    assert spellings.key(first) == spellings.key(second)
    assert (spellings.key(first) == spellings.key(third)) == (same(one) == same(other))


@given(st.lists(names, min_size=1, max_size=5, unique_by=lambda parts: repr(same(parts))), st.data())
def test_each_patient_is_one_group_however_it_is_spelled(patients, data):
    listed = [
        ListedImage(f"a/{patient}_{image}.png", "a", data.draw(spelling(parts)))
        for patient, parts in enumerate(patients)
        for image in range(3)
    ]
    checked = groups.checked(Listing(Path(), listed))
    assert len({item.group for item in checked.images}) == len(patients)
    for before, after in zip(listed, checked.images, strict=True):
        assert spellings.key(before.group) == spellings.key(after.group)
    changed = any(before.group != after.group for before, after in zip(listed, checked.images, strict=True))
    assert bool(checked.warnings) == changed


@given(
    st.sampled_from(
        sorted(spellings.MISSING | spellings.MISSING_CODES | {"-", "--", "?", "???", ".", "\u2014", "..."})
    ),
    st.sampled_from([str, str.upper, str.title]),
    st.sampled_from(["{}", " {} ", "{}\u00a0", "\u200b{}", "'{}'"]),
)
def test_words_for_missing_are_unknown_and_named(word, case, around):
    group = around.format(case(word))
    listed = [ListedImage("a/1.png", "a", group), ListedImage("a/2.png", "a", "P1"), ListedImage("a/3.png", "a")]
    checked = groups.checked(Listing(Path(), listed))
    assert [item.group for item in checked.images] == ["", "P1", ""]
    assert checked.warnings == [f"the group of 1 images means unknown: {group!r}"]


@pytest.mark.parametrize("names, expected", [
    (("7", "7.0", "007"), 1),
    (("7", "7,0"), 1),
    (("7", "7.0", "7.5"), 3),  # the fraction is a number of its own where others are not 0
    (("7.1", "7.10"), 2),
    (("P1-1", "P11", "P1-11"), 3),
    (("10", "1"), 2),
    (("-1", "1"), 1),  # a code for missing
    (("0", "00"), 1),
])  # fmt: skip
def test_numbers(names, expected):
    listed = [ListedImage(f"a/{number}.png", "a", name) for number, name in enumerate(names)]
    assert len({item.group for item in groups.checked(Listing(Path(), listed)).images} - {""}) == expected


@pytest.mark.parametrize("pattern, expected", [
    (r"case\d+", "case12"),
    (r"(case\d+)_(\d)", "case12"),
    (r"(?P<class>\w+)/case(?P<group>\d+)", "12"),
    (r"(\w+)/case(?P<patient>\d+)", "12"),
    ("caf\u00e9 (\\d)", "3"),
])  # fmt: skip
def test_the_group_is_the_named_part_of_a_pattern_or_else_the_first(pattern, expected):
    path = unicodedata.normalize("NFD", "polyp/case12_1 caf\u00e9 3.png")
    assert groups.from_paths([ListedImage(path, "polyp")], pattern)[0].group == expected


def test_several_named_parts_without_a_group_are_refused():
    with pytest.raises(ValueError, match=r"names the parts class, case; .*\(\?P<group>"):
        groups.from_paths([ListedImage("a/1.png", "a")], r"(?P<class>\w)/(?P<case>\d)")


def test_class_options_are_compared_in_any_unicode_form_and_labels_are_composed():
    label = unicodedata.normalize("NFD", "ad\u00e9nome")
    listed = [ListedImage("a/1.png", label), ListedImage("a/2.png", "none")]
    listing = Listing(Path(), listed, class_order(listed, ["NONE", "ad\u00e9nome"]))
    checked = with_checked_labels(listing)
    assert checked.classes == ("none", "ad\u00e9nome") and checked.images[0].label == "ad\u00e9nome"
    assert "the class 'none' has 1 images" in checked.warnings[0]
