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
        sorted(spellings.MISSING | {"-1", "-1.0", "-", "--", "?", "???", ".", "\u2014", "...", "(NULL)", "<NA>"})
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
    (("7", "+7", "#7", "007"), 1),
    (("7", "-7", "(7)", "(-7)"), 4),
    (("A/7", "A\\7", "a-7", "A#7"), 1),
    (("2013/7", "2013\\7", "2013#7", "20137"), 2),
])  # fmt: skip
def test_numbers(names, expected):
    listed = [ListedImage(f"a/{number}.png", "a", name) for number, name in enumerate(names)]
    assert len({item.group for item in groups.checked(Listing(Path(), listed)).images} - {""}) == expected


def warnings_of(*names):
    listed = [ListedImage(f"a/{number}.png", "a", name) for number, name in enumerate(names)]
    checked = groups.checked(Listing(Path(), listed))
    return checked, [item.group for item in checked.images]


@pytest.mark.parametrize("one, other", [
    ("P1", "P(1)"), ("P1-1", "P1:1"), ("7", "-7"), ("7", "(7)"), ("(7)", "(-7)"), ("7", "Nr. 7"), ("7", "patient 7"),
    ("case 7", "slide 7"), ("Müller", "Muller"), ("M\u00fcller", "Mueller"), ("S:1", "S~1"),
    ("\u00d8rsted 1", "Orsted 1"), ("P7", "\u04207"), ("A7", "\u03917"), ("P7", "P7*"), ("P7?", "P7"),
    ("7,0", "7?"), ("1234", "1.234"), ("1234567", "1,234,567"),
])  # fmt: skip
def test_groups_that_look_alike_are_kept_and_named(one, other):
    checked, kept = warnings_of(one, other, "B12")
    assert kept == [one, other, "B12"]
    (warning,) = checked.warnings
    assert warning.startswith(f"1 sets of groups look alike and are taken as different: {one!a} and {other!a};")


@pytest.mark.parametrize("names", [
    ("P1-1", "P11", "P1-11"), ("ER+", "ER-"), ("<5", ">5"), ("P\U0001f44d", "P\U0001f44e"),
    ("3+4", "4+3"), ("7", "70", "77"), ("P1", "Q1", "1"),
    ("7.1", "7.10", "71"), ("2013.123", "2013123"),
])  # fmt: skip
def test_other_groups_do_not_look_alike(names):
    assert warnings_of(*names)[0].warnings == []


@given(names.filter(lambda parts: isinstance(parts[0], str)), st.data())
def test_spellings_of_a_name_look_alike(one, data):
    first, second = data.draw(spelling(one)), data.draw(spelling(one))
    assert spellings.lookalike_key(first) == spellings.lookalike_key(second)


CODES = ["-9", "-99", "999", "9999", "9999.0", "-7", "-8", "0", "88", "k.A.", "K. A.", "n.d.", "XX", "Leer", "Vide",
         "Brak", "Yok", "anonymous", "patient", "неизвестно", "okänd",
         "00.01.1900"]  # fmt: skip


@pytest.mark.parametrize("code", CODES)
def test_a_name_that_may_mean_unknown_is_kept_and_doubted_if_it_has_many_images(code):
    others = ["P1", "P2", "P3", "P4"]
    checked, kept = warnings_of(*[code] * 3, *others)
    assert kept == [code] * 3 + others
    (warning,) = checked.warnings
    assert warning.startswith(f"the group {code!r} has 3 images, others have 1.0 on average")
    assert warnings_of(code, *others)[0].warnings == []


@pytest.mark.parametrize("name", ["3-Jan", "03. M\u00e4r", "Jan-03", "1. Dez. 2024", "May 2024"])
def test_dates_of_a_spreadsheet_are_named(name):
    assert warnings_of(name, "P1")[0].warnings[0].startswith("1 groups are dates, as spreadsheets write numbers")
    assert warnings_of("Jan", "mar7", "Marie-03", "2024-01-03")[0].warnings == []


@pytest.mark.parametrize("name", ["P9", "99-1", "A999", "7", "19", "Leerdam", "Brakel", "N.D.7", "-12", "989"])
def test_other_names_are_not_doubted(name):
    assert warnings_of(*[name] * 9, "P1", "P2")[0].warnings == []


@pytest.mark.parametrize("names", [("1", "1.0"), ("1", "01"), ("2", "2.0", "2.5"), ("Grade 1", "grade-01")])
def test_labels_that_are_spellings_of_one_are_refused(names):
    listed = [ListedImage(f"{number}.png", name) for number, name in enumerate((*names, "x"))]
    with pytest.raises(ValueError, match="differ in spelling only"):
        class_order(listed, None)


def test_labels_that_look_alike_or_may_mean_unknown_are_named():
    listed = [ListedImage(f"{number}.png", name) for number, name in enumerate(("T1a", "T1(a)", "ER+", "ER-", "-9"))]
    checked = with_checked_labels(Listing(Path(), listed, class_order(listed, None)))
    assert checked.warnings == [
        "the class '-9' has 1 images; leave them out with --exclude=-9 if it means that their label is not known",
        "classes look alike and are taken as different: 'T1(a)' and 'T1a'",
    ]
    listed = [ListedImage(f"{number}.png", name) for number, name in enumerate(("0", "1", "-1"))]
    assert with_checked_labels(Listing(Path(), listed, class_order(listed, None))).warnings == []


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
