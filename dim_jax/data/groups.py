"""Groups (patients or cases) of listed images: read from paths, and checked before anything is split by them.

Images of one patient on both sides of a split are the fault that splitting by group prevents, so names that differ in
spelling only are one group, and words for a missing value are none. Where that would be a guess, names are kept, with a
warning.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from dim_jax.data import spellings
from dim_jax.data.listing import ListedImage, Listing, named

MANY = 2  # times as many images as other groups have, of a group whose name may mean unknown


def from_paths(listed: Sequence[ListedImage], pattern: str) -> list[ListedImage]:
    """Sets the group of each image from its path.

    Args:
      listed: the images.
      pattern: regular expression searched in each path; the group is what its named group `(?P<group>...)`, or its only
        named group, matches, or else its first capturing group, or else the whole match.

    Raises:
      ValueError: the pattern is invalid or has several named groups and none called group, or a path does not match it.
    """
    try:
        # Both in composed form, as a file system may decompose the accents of names.
        compiled = re.compile(spellings.composed(pattern))
    except re.error as error:
        raise ValueError(f"--group-regex={pattern!r} is not a regular expression: {error}") from None
    part: str | int = "group" if "group" in compiled.groupindex else min(compiled.groups, 1)
    if compiled.groupindex and part != "group":
        if len(compiled.groupindex) > 1:
            raise ValueError(
                f"--group-regex={pattern!r} names the parts {', '.join(compiled.groupindex)}; call that of the patient "
                "or case (?P<group>...)"
            )
        (part,) = compiled.groupindex
    grouped = []
    for item in listed:
        match = compiled.search(spellings.composed(item.path))
        group = match[part] if match else None
        if not group:
            raise ValueError(f"--group-regex={pattern!r} finds no group in {item.path!r}; widen it or rename the file")
        grouped.append(replace(item, group=group))
    return grouped


def checked(listing: Listing) -> Listing:
    """Returns the listing with one spelling for each group, "" for words that mean unknown, and warnings of both.

    A group takes its first spelling in the order of the paths. Groups that look alike, or whose name may mean unknown,
    are kept, with a warning.
    """
    counts = Counter(item.group for item in listing.images if item.group)
    unknown = [name for name in counts if spellings.is_missing(name)]
    known = [name for name in counts if not spellings.is_missing(name)]
    whole_numbers = not any(map(spellings.has_fraction, known))
    written: dict[str, list[str]] = {}
    for name in known:
        written.setdefault(spellings.key(name, whole_numbers), []).append(name)
    group_of = {name: names[0] for names in written.values() for name in names} | dict.fromkeys(["", *unknown], "")
    warnings = []
    variants = [" = ".join(map(repr, names)) for names in written.values() if len(names) > 1]
    if variants:
        warnings.append(
            f"{len(variants)} groups are spelled in several ways, and each is taken as one: {named(variants)}"
        )
    if unknown:
        count = sum(counts[name] for name in unknown)
        warnings.append(f"the group of {count} images means unknown: {named([repr(name) for name in unknown], 8)}")
    shortened = [name for name in known if spellings.has_lost_digits(name)]
    if shortened:
        warnings.append(
            f"{len(shortened)} groups are numbers without their last digits, as spreadsheets write long ones, so "
            f"several patients may have the same: {named(shortened)}; format the column as text and save it again"
        )
    dates = [name for name in known if spellings.is_date(name)]
    if dates:
        warnings.append(
            f"{len(dates)} groups are dates, as spreadsheets write numbers such as 3-1: {named(dates)}; if they are "
            "none, format the column as text and enter them again"
        )
    images = [
        item if item.group == group_of[item.group] else replace(item, group=group_of[item.group])
        for item in listing.images
    ]
    sizes = Counter(item.group for item in images if item.group)
    alike = spellings.lookalikes(sizes)
    if alike:
        warnings.append(
            f"{len(alike)} sets of groups look alike and are taken as different: {named(alike)}; spell them alike if "
            "they are one patient or case"
        )
    for name, size in sizes.items():
        others = (sizes.total() - size) / max(1, len(sizes) - 1)
        if spellings.may_be_missing(name) and size > MANY * others > 0:
            warnings.append(
                f"the group {name!r} has {size} images, others have {others:.1f} on average; it is taken as one "
                "patient or case, so leave its cells empty if it means that none is known"
            )
    return replace(listing, images=images, warnings=[*listing.warnings, *warnings])
