"""Proposals of --group-regex, guessed from how file names are built. People decide; nothing is split by a guess."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from dim_jax.data import spellings

FEWEST_GROUPS = 5
MOST_GROUPS = 0.8  # of the number of images: with more, hardly any two images are kept together
LARGEST_GROUP = 0.5  # of the images
MOST_PROPOSALS = 3

# Parts of a name that say themselves whose image it is.
_NAMED = (
    r"(TCGA-[A-Z0-9]{2}-[A-Z0-9]{4})",
    r"(?i:patient|case|subject|pat)[-_ ]?(\d+)",
)
# Other parts, from the left; an image's own number is the last one, so the text after a group must tell its images
# apart.
_LEADING = (
    r"(?:^|/)[^/\d]*(\d+)[^/]*$",
    r"(?:^|/)([^/_\- ]+)[_\- ][^/]*$",
    r"(?:^|/)([^/_\- ]+[_\- ][^/_\- ]+)[_\- ][^/]*$",
)


@dataclass(frozen=True)
class Proposal:
    """A regular expression and what it finds.

    Attributes:
      pattern: value for --group-regex.
      groups: how many groups it gives.
      path, group: the first image's path, and its group.
    """

    pattern: str
    groups: int
    path: str
    group: str

    def __str__(self) -> str:
        return f"--group-regex='{self.pattern}' ({self.groups} groups; that of {self.path} is {self.group})"


def propose(paths: Sequence[str]) -> list[Proposal]:
    """Returns expressions that divide images into groups of a plausible number and size, the likeliest first.

    An expression must match every path, and find at least FEWEST_GROUPS groups, at most MOST_GROUPS times the number of
    images, and none with more than LARGEST_GROUP of them. Two that divide the images alike are one proposal.

    Args:
      paths: POSIX paths of the images below the source, at least one.
    """
    paths = [spellings.composed(path) for path in paths]
    depth = min(path.count("/") for path in paths)
    # The first folder is usually the class, which is no group.
    folders = [rf"^(?:[^/]+/){{{number}}}([^/]+)/" for number in range(1, depth)]
    proposals, partitions = [], set()
    for pattern in (*_NAMED, *folders, *_LEADING):
        matches = [re.search(pattern, path) for path in paths]
        names = [match[1] for match in matches if match]
        if len(names) < len(paths) or not _is_plausible(names):
            continue
        ends = [path[match.end(1) :] for path, match in zip(paths, matches, strict=True) if match]
        if pattern in _LEADING and len(set(zip(names, ends, strict=True))) < len(paths) / 2:
            continue
        numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
        partition = tuple(numbers[name] for name in names)
        if partition not in partitions:
            partitions.add(partition)
            proposals.append(Proposal(pattern, len(numbers), paths[0], names[0]))
    return proposals[:MOST_PROPOSALS]


def _is_plausible(names: Sequence[str]) -> bool:
    sizes = Counter(names)
    return FEWEST_GROUPS <= len(sizes) <= MOST_GROUPS * len(names) and max(sizes.values()) <= LARGEST_GROUP * len(names)
