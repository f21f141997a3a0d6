"""Duplicate images: exact copies by digest, near-duplicates by local structure.

Near-duplicates are images of the same tissue saved again: recompressed, resized, blurred, recoloured, rotated by right
angles or mirrored, cropped or moved by up to about 5 % of a side. They are found in three steps, each on fewer pairs:

1. Candidates have similar descriptors, the low frequencies of a locally normalised thumbnail, in one of eight
   orientations. Local normalisation leaves out where the background is, which unrelated fields of one shape share.
2. Patches of the two thumbnails must correlate at places that one scaling and shift explains.
3. The same on larger images, aligned by that scaling and shift: the local correlation must be at least 0.3 in three
   quarters of the cells that have structure, and at least 0.93 where a grid or the like is drawn over most images.

In two public sets that correlation was at most 0.1 for different tissue and at least 0.45 for the same; what is joined
there, and how many copies are found, is measured by `benchmarks/near_duplicates.py`. Fields that overlap by less than
about 90 % are not detected; groups are for them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image
from scipy import fft, ndimage

THUMBNAIL = 64  # side of the images of the first two steps, in px
DETAILS = (64, 128, 256)  # sides of the images of the third: the first that is not smaller than one of the two files
FREQUENCIES = 12  # per axis, of a descriptor: fewer are alike by chance, more change with a crop of 5 %
LEAST_SIMILARITY = 0.4
LEAST_AGREEMENT, MOST_NEEDED = 0.62, 10  # share of the patches with structure, and number, weighted by correlation
LEAST_CORRELATION = 0.3
# With a grid drawn over all images, different tissue correlates by up to 0.87, and copies by 0.98 and more.
LEAST_WITH_OVERLAY = 0.93
FEWEST_COMPARED, MOST_COMPARED = 24, 96  # images from which an overlay is estimated
LEAST_OVERLAY = 0.3  # share of it in the energy of the images
LEAST_CELLS = 3  # cells with structure, without which nothing can be confirmed
FINE, COARSE = 1.5, 6.0  # limits of the band of structures, standard deviations in px
NOISE = 3.0  # contrast in grey levels below which normalisation fades out
STRUCTURE = 0.25  # least mean square of a normalised cell with structure
PATCHES, CELLS = 5, 8  # per axis, for alignment and for the final correlation
SCALES = (0.9, 0.95, 1.0, 1 / 0.95, 1 / 0.9)
CHUNK = 1024
IMAGES_IN_MEMORY = 256


@dataclass(frozen=True)
class Signature:
    """The features by which candidates are found and aligned.

    Attributes:
      descriptor: low frequencies of the normalised thumbnail, float32 of shape (12, 12), of norm 1, or 0 if the image
        has a single colour.
      thumbnail: normalised grey levels, float16 of shape (64, 64).
      detail: side of the larger image for confirmation, in px.
    """

    descriptor: np.ndarray
    thumbnail: np.ndarray
    detail: int


def signature(pixels: np.ndarray) -> Signature:
    """Returns the signature of an RGB image, uint8 of shape (H, W, 3)."""
    thumbnail = _normalised(pixels, THUMBNAIL)
    frequencies = fft.dctn(thumbnail, norm="ortho")[:FREQUENCIES, :FREQUENCIES].copy()
    frequencies[0, 0] = 0
    norm = np.linalg.norm(frequencies)
    detail = next((side for side in DETAILS if side >= min(pixels.shape[:2])), DETAILS[-1])
    return Signature(frequencies / max(norm, 1e-6), thumbnail.astype(np.float16), detail)


def _normalised(pixels: np.ndarray, side: int) -> np.ndarray:
    """Returns the band-passed grey levels of an image over their local contrast, float32 of shape (side, side)."""
    grey = Image.fromarray(pixels).convert("L").resize((side, side), Image.Resampling.BILINEAR)
    levels = np.asarray(grey, np.float32)
    band = ndimage.gaussian_filter(levels, FINE, truncate=3) - ndimage.gaussian_filter(levels, COARSE, truncate=2)
    return band / (np.sqrt(ndimage.gaussian_filter(band**2, COARSE, truncate=2)) + NOISE)


def _orientations(image: np.ndarray) -> list[np.ndarray]:
    """Returns the eight right-angle rotations and reflections of an (S, S) image, itself first."""
    rotations = [np.rot90(image, number) for number in range(4)]
    return rotations + [rotation.T for rotation in rotations]


def _descriptor_orientations(descriptors: np.ndarray) -> list[np.ndarray]:
    """Returns the descriptors (N, 12, 12) of the eight `_orientations` of images with the given descriptors."""
    mirrored = (-1.0) ** np.arange(FREQUENCIES, dtype=np.float32)[:, None]  # an odd cosine changes its sign
    rotations = [descriptors]
    for _ in range(3):
        rotations.append(rotations[-1].swapaxes(1, 2) * mirrored)
    return rotations + [rotation.swapaxes(1, 2) for rotation in rotations]


def near_pairs(
    signatures: Sequence[Signature], digests: Sequence[str], read: Callable[[int], np.ndarray]
) -> np.ndarray:
    """Returns pairs of near-duplicates that connect all images of the same tissue, int64 of shape (P, 2).

    Every pair is confirmed. A chain of pairs connects its ends: of fields that were moved step by step each shares
    tissue with the next, so none may be on another side of a split. Pairs of images that others connect are skipped,
    and the most similar come first, so that twenty copies give nineteen pairs. Comparing descriptors takes about 30 s
    on two cores for 20,000 images, and is quadratic in their number.

    Args:
      signatures: signature of each image.
      digests: digest of each image's file; exact copies are no near-duplicates.
      read: function from a row to its pixels, uint8 of shape (H, W, 3).
    """

    @lru_cache(IMAGES_IN_MEMORY)
    def detailed(row: int, side: int) -> np.ndarray:
        return _normalised(read(row), side)

    least = LEAST_WITH_OVERLAY if _have_overlay(signatures) else LEAST_CORRELATION
    pairs, representative = [], list(range(len(signatures)))

    def find(row: int) -> int:
        while representative[row] != row:
            representative[row] = row = representative[representative[row]]
        return row

    for first, second, orientation in _candidates(signatures, digests):
        if find(first) == find(second):
            continue
        thumbnails = [signatures[row].thumbnail.astype(np.float32) for row in (first, second)]
        placement = _align(thumbnails[0], _orientations(thumbnails[1])[orientation], reach=7)
        if placement is None:
            continue
        side = min(signatures[row].detail for row in (first, second))
        other = _orientations(detailed(second, side))[orientation]
        if correlation(detailed(first, side), other, placement) >= least:
            representative[find(second)] = find(first)
            pairs.append((first, second))
    return np.array(sorted(pairs), np.int64).reshape(-1, 2)


def _have_overlay(signatures: Sequence[Signature]) -> bool:
    """Returns whether most images have the same structure at the same place, such as a grid drawn over them."""
    if len(signatures) < FEWEST_COMPARED:
        return False
    sample = np.unique(np.linspace(0, len(signatures) - 1, MOST_COMPARED).astype(int))
    thumbnails = np.stack([signatures[row].thumbnail.astype(np.float32) for row in sample])
    return bool((np.median(thumbnails, 0) ** 2).mean() > LEAST_OVERLAY * (thumbnails**2).mean())


def _candidates(signatures: Sequence[Signature], digests: Sequence[str]) -> list[tuple[int, int, int]]:
    """Returns (row, later row, orientation of the later) of pairs with similar descriptors, the most similar first."""
    if not signatures:
        return []
    descriptors = np.stack([item.descriptor for item in signatures])
    oriented = [item.reshape(len(descriptors), -1) for item in _descriptor_orientations(descriptors)]
    numbers = np.unique(digests, return_inverse=True)[1]
    candidates = []
    for start in range(0, len(descriptors), CHUNK):
        chunk = oriented[0][start : start + CHUNK]
        for orientation, others in enumerate(oriented):
            similarity = chunk @ others[start:].T
            for first, second in np.argwhere(similarity >= LEAST_SIMILARITY).tolist():
                if first < second and numbers[start + first] != numbers[start + second]:
                    candidates.append((-similarity[first, second], start + first, start + second, orientation))
    return [candidate[1:] for candidate in sorted(candidates)]


@dataclass(frozen=True)
class Placement:
    """Where an image is in another: place in the other = scale * place + shift, for y and x.

    Attributes:
      scale, shift: float64 of shape (2,); the shift in px.
    """

    scale: np.ndarray
    shift: np.ndarray

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Returns the other image moved onto this one; 0 where it does not reach."""
        return ndimage.affine_transform(image, self.scale, self.shift, order=1)

    def then(self, other: "Placement") -> "Placement":
        """Returns the placement that first applies this one, then `other` to the result."""
        return Placement(self.scale * other.scale, self.scale * other.shift + self.shift)


def _align(image: np.ndarray, other: np.ndarray, reach: int) -> Placement | None:
    """Returns where `image` is in `other`, or None if too few patches agree about it.

    Args:
      image, other: normalised, of shape (S, S).
      reach: how far a patch is searched for, in px.
    """
    side = len(image)
    patch, window = side // 4, side // 4 + 2 * reach
    corners = np.linspace(0, side - patch, PATCHES).round().astype(int)
    places = np.stack(np.meshgrid(corners, corners, indexing="ij"), -1).reshape(-1, 2)
    padded = np.pad(other, reach)
    patches = np.stack([image[y : y + patch, x : x + patch] for y, x in places.tolist()])
    energies = (patches**2).mean((1, 2))
    has_structure = energies >= STRUCTURE
    if has_structure.sum() < LEAST_CELLS:
        return None
    patches, energies, places = patches[has_structure], energies[has_structure], places[has_structure]
    windows = np.stack([padded[y : y + window, x : x + window] for y, x in places.tolist()])
    size = fft.next_fast_len(window, real=True)
    spectrum = fft.rfft2(windows, (size, size)) * fft.rfft2(patches, (size, size)).conj()
    shifts = 2 * reach + 1
    products = fft.irfft2(spectrum, (size, size))[:, :shifts, :shifts] / patch**2
    totals = np.pad((windows**2).cumsum(1).cumsum(2), ((0, 0), (1, 0), (1, 0)))
    moved = totals[:, patch:, patch:] - totals[:, :-patch, patch:] - totals[:, patch:, :-patch]
    moved = (moved + totals[:, :-patch, :-patch]) / patch**2
    scores = products / np.sqrt(np.maximum(moved, STRUCTURE) * energies[:, None, None])
    scores = scores.reshape(len(scores), -1)
    best = scores.argmax(1)
    weights = np.maximum(scores.max(1), 0)
    displacements = np.stack(np.divmod(best, shifts), 1) - reach
    # agrees[axis, scale, i, j]: patch j is where it would be if patch i were right and the image scaled so.
    gaps = places[None] - places[:, None]
    strains = np.array(SCALES)[:, None, None, None] - 1
    tolerance = max(1.0, side / 96)
    agrees = (np.abs(displacements[None] - displacements[:, None] - strains * gaps) <= tolerance).astype(np.float32)
    votes = np.einsum("aij,bij,j->abi", agrees[..., 0], agrees[..., 1], weights)
    scale_y, scale_x, anchor = np.unravel_index(votes.argmax(), votes.shape)
    if votes.max() < min(LEAST_AGREEMENT * len(places), MOST_NEEDED):
        return None
    inside = (agrees[scale_y, anchor, :, 0] * agrees[scale_x, anchor, :, 1]).astype(bool)
    scale, shift = np.array([SCALES[scale_y], SCALES[scale_x]]), np.zeros(2)
    centres = places[inside] + (patch - 1) / 2
    for axis in range(2):
        place, target = centres[:, axis], centres[:, axis] + displacements[inside, axis]
        if np.ptp(place) >= side / 3:
            scale[axis] = np.polyfit(place, target, 1)[0]
        shift[axis] = (target - scale[axis] * place).mean()
    return Placement(scale, shift)


def correlation(image: np.ndarray, other: np.ndarray, placement: Placement) -> float:
    """Returns the lower quartile of the local correlation of two images of (256, 256), over cells with structure.

    Args:
      image, other: normalised images of the same orientation, of shape (S, S).
      placement: where `image` is in `other`, for images of side `THUMBNAIL`.
    """
    enlarged = len(image) / THUMBNAIL
    placement = Placement(placement.scale, placement.shift * enlarged + (placement.scale - 1) * (1 - enlarged) / 2)
    correction = _align(image, placement.apply(other), reach=8)
    if correction is None:
        return 0.0
    placement = placement.then(correction)
    covered = placement.apply(np.ones_like(other)) > 0.99
    one, two, share = (_cells(item) for item in (image, placement.apply(other), covered.astype(np.float32)))
    energies = np.stack([(one**2).mean(1), (two**2).mean(1)])
    counts = (share.mean(1) > 0.95) & (energies.max(0) >= STRUCTURE)
    if counts.sum() < LEAST_CELLS:
        return 0.0
    local = (one * two).mean(1) / np.sqrt(np.maximum(energies, STRUCTURE / 2).prod(0))
    return float(np.quantile(local[counts], 0.25))


def _cells(image: np.ndarray) -> np.ndarray:
    """Returns the pixels of each cell of an (S, S) image, of shape (64, (S / 8)^2)."""
    side = len(image) // CELLS
    return image.reshape(CELLS, side, CELLS, side).swapaxes(1, 2).reshape(CELLS**2, -1)


def exact_pairs(digests: Sequence[str]) -> np.ndarray:
    """Returns the pair (first row, row) of each row that repeats an earlier digest, int64 of shape (P, 2)."""
    first: dict[str, int] = {}
    pairs = [(first.setdefault(digest, row), row) for row, digest in enumerate(digests)]
    return np.array([pair for pair in pairs if pair[0] != pair[1]], np.int64).reshape(-1, 2)
