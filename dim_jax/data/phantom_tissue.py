"""Synthetic colonic mucosa as maps of two dyes: glands, lumens, goblet cells, nuclei and stroma at a latent grade.

All random structure is generated on a fixed grid of GRID x GRID, so that the tissue is the same at every resolution.
"""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

GRID = 160  # side of the structure grid; a grid pixel is about 1.4 micrometres of a 400x field

# Values at grades 0 (normal), 1 (polyp), 2 (low grade), 3 (high grade) and 4 (adenocarcinoma); lengths in grid pixels.
_FEATURES: dict[str, tuple[float, float, float, float, float]] = {
    "spacing": (45, 50, 54, 57, 56),  # between gland centres
    "jitter": (0.10, 0.14, 0.15, 0.22, 0.32),  # of the centres, as a fraction of the spacing
    "stretch": (0.10, 0.30, 0.35, 0.50, 0.60),  # spread of the log of the elongation
    "warp": (1.6, 3.2, 3.2, 5.5, 8.0),  # bending of outlines
    "septum": (5.5, 6.5, 4.5, 1.2, 1.0),  # stroma left between neighbours
    "irregular": (0.0, 0.0, 0.04, 0.25, 0.90),  # from lattice of glands to invading nests
    "height": (15.0, 16.0, 17.0, 19.0, 24.0),  # of the epithelium
    "serration": (0.6, 2.4, 1.2, 1.8, 1.6),  # of the lumen's edge
    "holes": (-9.0, -9.0, -6.0, -1.6, -1.9),  # level of the punched-out lumens of cribriform growth
    "goblet": (1.0, 0.72, 0.26, 0.07, 0.02),  # density of goblet cells relative to normal mucosa
    "nucleus_long": (2.3, 2.6, 3.6, 3.4, 3.5),  # semi-axes
    "nucleus_wide": (1.15, 1.15, 1.15, 1.75, 2.25),
    "packing": (1.45, 1.55, 1.75, 1.85, 1.95),  # width of the space around a nucleus, relative to its own
    "pleomorphism": (0.08, 0.10, 0.14, 0.24, 0.32),  # spread of the log of nuclear size
    "strata": (1.0, 2.0, 8.0, 15.0, 36.0),  # depth of epithelium that nuclei occupy
    "disorder": (0.08, 0.12, 0.18, 0.60, 1.3),  # angle to the cell axis in radians
    "chromatin": (1.18, 1.22, 1.32, 1.32, 1.30),  # haematoxylin in a nucleus
    "vesicular": (0.10, 0.10, 0.14, 0.38, 0.52),  # how empty the centre of a nucleus is
    "basophilia": (0.32, 0.36, 0.43, 0.43, 0.42),  # haematoxylin in cytoplasm
    "desmoplasia": (0.0, 0.05, 0.15, 0.35, 1.0),  # spindle cells and collagen in stroma
    "debris": (0.0, 0.03, 0.10, 0.35, 0.8),  # in lumens
    "mitoses": (0.0, 0.5, 2.0, 6.0, 9.0),  # expected number
}


@dataclass(frozen=True)
class Tissue:
    """Maps of one field of view, each float32 of shape (resolution, resolution).

    Attributes:
      haematoxylin: amount of dye (optical density along its absorption vector), >= 0.
      eosin: amount of dye, >= 0.
      nuclei: fraction of the pixel covered by epithelial nuclei, 0..1.
      epithelium: fraction of the pixel inside glands or nests and outside lumens, 0..1.
      lumen: fraction of the pixel in a lumen or outside the tissue, 0..1.
    """

    haematoxylin: np.ndarray
    eosin: np.ndarray
    nuclei: np.ndarray
    epithelium: np.ndarray
    lumen: np.ndarray


def compose(
    rng: np.random.Generator,
    grade: float,
    resolution: int = 320,
    magnification: float = 1.0,
    inflammation: float = 1.0,
    retraction: float = 0.0,
) -> Tissue:
    """Generates the tissue of one field of view.

    Args:
      rng: random generator; the same state gives the same tissue at every resolution.
      grade: 0 normal, 1 polyp, 2 low grade, 3 high grade, 4 adenocarcinoma, interpolated between them; clipped to 0..4.
      resolution: side of the maps in px.
      magnification: size of all structures, relative to 1.
      inflammation: density of lymphocytes, relative to 1.
      retraction: width of the white clefts around glands in grid pixels, >= 0.

    Returns:
      Maps of dyes and structures.
    """
    feature = {name: float(np.interp(grade, range(5), values)) for name, values in _FEATURES.items()}
    for name in ("spacing", "warp", "septum", "height", "serration", "nucleus_long", "nucleus_wide", "strata"):
        feature[name] *= magnification
    depth, cavity = _architecture(rng, feature)
    along = _directions(rng, depth)
    grain = rng.standard_normal((GRID, GRID)).astype(np.float32)
    streaks = _smear(rng.standard_normal((GRID, GRID)).astype(np.float32), along)
    patchy = _noise(rng, 6)

    bodies = _populate(rng, feature, depth, cavity, along, patchy, magnification, inflammation)

    canvas = _Canvas(resolution)
    rough = canvas.enlarge(ndimage.gaussian_filter(grain, 0.6)) * 2.0
    epithelial, coverage = canvas.nuclei(
        bodies["nuclei"], rough, feature["vesicular"], feature["pleomorphism"] * 0.6 + 0.14
    )
    stromal, _ = canvas.nuclei(bodies["stroma"], rough, 0.0, 0.12)
    dividing, _ = canvas.nuclei(bodies["mitoses"], rough, 0.0, 0.0)
    crumbs, _ = canvas.nuclei(bodies["debris"], rough, 0.0, 0.3)
    red, _ = canvas.nuclei(bodies["red cells"], rough * 0.2, 0.3, 0.1)
    mucin, wall = canvas.vacuoles(bodies["goblets"], rough)

    depth, cavity, streaks, patchy = (canvas.enlarge(part) for part in (depth, cavity, streaks, patchy))
    gland = _edge(depth, 0.8)
    hollow = _edge(cavity, 0.8)
    texture = canvas.enlarge(ndimage.gaussian_filter(grain, 1.6)) * 5.0
    cleft = np.clip(1.0 - np.abs(depth + 0.8 + 0.5 * retraction) / (0.4 + 0.6 * retraction), 0, 1) * retraction
    cleft = np.clip(cleft * (0.45 + 0.5 * patchy + 0.15 * texture), 0, 1) * (1 - 0.5 * feature["irregular"])
    gaps = _edge(-streaks - 0.2 * texture - 1.15 - 0.3 * patchy, 0.35)

    base = np.exp(-np.maximum(depth, 0) / (3.0 * magnification))
    cell_e = 0.50 + 0.06 * streaks + 0.04 * texture
    cell_h = (feature["basophilia"] + 0.42 * base) * (1 + 0.20 * streaks + 0.10 * texture)
    cell_e = cell_e * (1 - mucin) + (0.19 + 0.03 * streaks) * mucin
    cell_h = cell_h * (1 - mucin) + (0.22 + 0.04 * streaks) * mucin
    cell_h = cell_h + 0.12 * wall + feature["chromatin"] * epithelial + 1.6 * dividing
    cell_e = cell_e + 0.16 * wall + 0.15 * epithelial + 0.14 * np.exp(-((cavity + 1.2) ** 2))
    fibre_e = 0.46 + 0.10 * feature["desmoplasia"] + 0.14 * streaks + 0.06 * texture + 0.8 * red
    fibre_e = fibre_e + 0.18 * np.exp(-((depth + 1.0) ** 2))  # basement membrane and sheath
    fibre_h = 0.26 + 0.04 * streaks + 0.03 * texture + 1.5 * stromal
    open_space = np.maximum(cleft, 0.75 * gaps)
    fibre_e, fibre_h = fibre_e * (1 - open_space), fibre_h * (1 - 0.9 * open_space)
    mucus = np.clip(0.01 + 0.05 * patchy + 0.01 * texture, 0, 1)
    eosin = (1 - hollow) * (gland * cell_e + (1 - gland) * fibre_e) + hollow * (mucus + 0.5 * crumbs)
    haematoxylin = (1 - hollow) * (gland * cell_h + (1 - gland) * fibre_h) + hollow * (0.5 * mucus + 0.7 * crumbs)
    return Tissue(
        np.maximum(haematoxylin, 0), np.maximum(eosin, 0), coverage * (1 - hollow), gland * (1 - hollow), hollow
    )


def _architecture(rng: np.random.Generator, feature: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the depth inside glands (negative in stroma) and the level of lumens (positive inside)."""
    # Python scalars keep the arrays float32 under the promotion rules of all numpy versions.
    spacing = feature["spacing"] * math.exp(rng.normal(0, 0.08))
    angle = rng.uniform(0, math.pi)
    stretch = math.exp(abs(rng.normal(0, feature["stretch"])))
    side = GRID // 2
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) * 2 + 0.5
    half = (slice(None, None, 2), slice(None, None, 2))
    x = x + feature["warp"] * _noise(rng, 4)[half] + 0.4 * feature["warp"] * _noise(rng, 9)[half] - GRID / 2
    y = y + feature["warp"] * _noise(rng, 4)[half] + 0.4 * feature["warp"] * _noise(rng, 9)[half] - GRID / 2
    u = (x * math.cos(angle) + y * math.sin(angle)) / stretch
    v = y * math.cos(angle) - x * math.sin(angle)

    reach = int(np.ceil(1.5 * GRID / 2 / spacing)) + 1
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    centre_u = (columns + 0.5 * (rows % 2)) * spacing + rng.uniform(0, spacing)
    centre_v = rows * spacing * 0.866 + rng.uniform(0, spacing)
    centres = np.stack([centre_u.ravel(), centre_v.ravel()], 1)
    centres = centres + rng.normal(0, feature["jitter"] * spacing, centres.shape)
    radii = 0.5 * spacing * np.exp(rng.normal(-0.08, 0.10, len(centres)))
    near = (np.abs(centres[:, 0]) < GRID * 0.71 / stretch + spacing) & (np.abs(centres[:, 1]) < GRID * 0.71 + spacing)
    centres, radii = centres[near].astype(np.float32), radii[near].astype(np.float32)
    away_u, away_v = u - centres[:, 0, None, None], v - centres[:, 1, None, None]
    margin = radii[:, None, None] - np.sqrt(away_u * away_u + away_v * away_v)  # much faster than np.hypot
    nearest = margin.argmax(0)[None]
    first = np.take_along_axis(margin, nearest, 0)[0]
    np.put_along_axis(margin, nearest, -np.inf, 0)
    second = margin.max(0)
    septum = feature["septum"] * (1 + 0.5 * _noise(rng, 5)[half])
    level = np.minimum(first, (first - second - septum) / 2)

    # Nests are elongated in the direction of the glands; the lookup covers the diagonal of the rotated square.
    row, column = (np.clip(part / 1.45 + GRID / 2, 0, GRID - 1).astype(np.intp) for part in (v, u))
    nests = _noise(rng, 9)[row, column] + 0.8 * _noise(rng, 17)[row, column] + rng.normal(0.45, 0.45)
    level = (1 - feature["irregular"]) * level + feature["irregular"] * 6.5 * nests
    surface = np.full((GRID, GRID), -np.inf, np.float32)
    if rng.random() < 0.14:  # the field includes the surface, which is lined by epithelium
        ground_y, ground_x = np.mgrid[0:GRID, 0:GRID].astype(np.float32) / GRID - 0.5
        turn = rng.uniform(0, 2 * math.pi)
        surface = (ground_x * math.cos(turn) + ground_y * math.sin(turn) - rng.uniform(0.36, 0.54)) * GRID
        surface += feature["warp"] * _noise(rng, 3) + 0.8 * _noise(rng, 16)
    mask = (_resize(level, GRID) > 0) | (surface > -0.8 * feature["height"])
    mask[0, :2] = True, False  # the distance transforms need both values
    depth = ndimage.distance_transform_edt(mask) - ndimage.distance_transform_edt(~mask)
    depth = ndimage.gaussian_filter(depth.astype(np.float32), 1.1)

    height = feature["height"] * math.exp(rng.normal(0, 0.10 + 0.2 * feature["irregular"])) + 2.0 * _noise(rng, 5)
    # Fused glands have a lumen each; invading nests have lumens wherever they are thick.
    core = np.minimum(depth, _resize(first, GRID))
    cavity = core + feature["irregular"] * (depth - core) - height + feature["serration"] * _noise(rng, 22)
    holes = np.minimum(3.0 * (_noise(rng, 13) + feature["holes"] + rng.normal(0, 0.25)), depth - 4)
    return depth, np.maximum(np.maximum(cavity, holes), surface)


def _directions(rng: np.random.Generator, depth: np.ndarray) -> np.ndarray:
    """Returns unit vectors as (y, x), shape (2, GRID, GRID): cell axes in epithelium, fibres in stroma."""
    rise = np.stack(np.gradient(ndimage.gaussian_filter(depth, 1.8)))
    drift = np.stack([_noise(rng, 5), _noise(rng, 5)]) * 0.35
    across = np.stack([-rise[1], rise[0]]) + drift
    field = np.where(depth > 0, rise + 0.15 * drift, across)
    return (field / np.maximum(np.hypot(field[0], field[1]), 1e-3)).astype(np.float32)


def _populate(
    rng: np.random.Generator,
    feature: dict[str, float],
    depth: np.ndarray,
    cavity: np.ndarray,
    along: np.ndarray,
    patchy: np.ndarray,
    unit: float,
    inflammation: float,
) -> dict[str, np.ndarray]:
    """Places vacuoles, nuclei and cells without overlap; returns arrays of `_Occupancy.scatter` by kind of body."""
    inside = (depth > 0) & (cavity < -1.0)
    outside = (depth < -2.2) & (cavity < -1.0)
    apical = np.clip((depth - 4.5 * unit) / 2, 0, 1) * (cavity < -1.5) * (_noise(rng, 5) + 3.2 * feature["goblet"] > 1)
    above = depth - 3.0 * unit
    basal = inside * (depth > 1.2) * np.exp(-0.5 * np.maximum(np.abs(above) - feature["strata"] / 2, 0) ** 2)
    basal *= np.where(above > feature["strata"] / 2, 0.6, 1.0)
    vessels = outside * (_noise(rng, 9) > 1.5)
    long, wide = feature["nucleus_long"], feature["nucleus_wide"]
    occupancy = _Occupancy()
    per_area = 1 / unit**2
    num_goblets = 700 * feature["goblet"] * per_area
    goblets = occupancy.scatter(rng, apical, num_goblets, 4.6 * unit, 2.7 * unit, along, 0.10, 0.10, 1.9)
    nuclei = occupancy.scatter(
        rng, basal, 2800 * per_area, long, wide, along, feature["disorder"], feature["pleomorphism"], feature["packing"]
    )
    strands = 60 + 160 * feature["desmoplasia"]
    spindles = occupancy.scatter(rng, outside, strands * per_area, 3.4 * unit, 0.9 * unit, along, 0.25, 0.2)
    crowd = outside * np.exp(0.9 * patchy)
    lymphocytes = occupancy.scatter(rng, crowd, 330 * inflammation * per_area, 1.6 * unit, 1.4 * unit, along, 3.0, 0.12)
    red_cells = occupancy.scatter(rng, vessels, 120 * rng.random(), 1.6 * unit, 1.4 * unit, along, 3.0)
    mitoses = occupancy.scatter(
        rng, inside, rng.poisson(feature["mitoses"]), 2.3 * unit, 0.9 * unit, along, 3.0, 0.2, 0
    )
    debris = occupancy.scatter(rng, cavity > 0.5, 90 * feature["debris"] * rng.random(), 1.3, 1.0, along, 3.0, 0.4, 0)
    return {
        "goblets": goblets,
        "nuclei": nuclei,
        "stroma": np.concatenate([spindles, lymphocytes]),
        "red cells": red_cells,
        "mitoses": mitoses,
        "debris": debris,
    }


def _smear(noise: np.ndarray, along: np.ndarray) -> np.ndarray:
    """Averages white noise along the directions (a line integral convolution), to unit variance."""
    y, x = np.mgrid[0:GRID, 0:GRID].astype(np.float32)
    total = np.zeros_like(noise)
    for step in range(-5, 6):
        row = np.clip(np.rint(y + step * along[0]), 0, GRID - 1).astype(np.intp)
        column = np.clip(np.rint(x + step * along[1]), 0, GRID - 1).astype(np.intp)
        total += noise[row, column]
    return total / np.float32(np.sqrt(11.0))


class _Occupancy:
    """Pixels that are covered by bodies, on a grid of twice the resolution of the structure grid, with a margin."""

    margin = 48
    side = 2 * GRID + 2 * margin

    def __init__(self) -> None:
        # Two views of one buffer: bytes are fast to test one by one, the array is fast to fill by squares.
        self.bytes = bytearray(self.side * self.side)
        self.array = np.frombuffer(self.bytes, np.uint8).reshape(self.side, self.side)

    def scatter(
        self,
        rng: np.random.Generator,
        weight: np.ndarray,
        tries: float,
        long: float,
        wide: float,
        along: np.ndarray,
        disorder: float,
        spread: float = 0.0,
        packing: float = 1.55,
    ) -> np.ndarray:
        """Places bodies with density `weight` by dart throwing, without overlap (Poisson-disc sampling).

        Args:
          rng: random generator.
          weight: relative density, shape (GRID, GRID).
          tries: number of candidates.
          long: semi-axis along `along` in grid pixels.
          wide: other semi-axis in grid pixels.
          along: unit vectors of directions as (y, x), shape (2, GRID, GRID).
          disorder: standard deviation of the angle to `along` in radians.
          spread: standard deviation of the log of the size.
          packing: half width of the footprint in units of `wide` / 2; 0 neither tests nor marks the footprint.

        Returns:
          float32 of shape (n, 6): y and x in grid pixels, angle of the long axis, long and wide semi-axes, and a
          standard normal number (the tone).
        """
        chances = np.cumsum(weight, dtype=np.float64)
        tries = int(tries)
        if tries <= 0 or chances[-1] <= 0:
            return np.zeros((0, 6), np.float32)
        pixel = np.minimum(np.searchsorted(chances, rng.random(tries) * chances[-1], side="right"), weight.size - 1)
        row, column = np.divmod(pixel, GRID)
        place = np.stack([row, column], 1) + rng.random((tries, 2)) - 0.5
        angle = np.arctan2(along[0, row, column], along[1, row, column]) + disorder * rng.standard_normal(tries)
        size, shape = np.exp(spread * np.array([[1.0], [0.6]]) * rng.standard_normal((2, tries)))
        tone = rng.standard_normal(tries)
        bodies = np.stack([*place.T, angle, long * size * shape, wide * size / shape, tone], 1).astype(np.float32)
        return bodies[self._place(bodies, packing)] if packing else bodies

    def _place(self, bodies: np.ndarray, packing: float) -> list[int]:
        """Marks the footprints of the bodies in turn and returns the indices of those that did not overlap."""
        # A footprint is three squares along the long axis.
        reach = np.minimum(np.maximum(bodies[:, 3] - bodies[:, 4], 0) * 1.7, self.margin / 2)
        arm = np.rint(np.stack([np.sin(bodies[:, 2]), np.cos(bodies[:, 2])], 1) * reach[:, None])
        centre = np.rint(bodies[:, :2] * 2) + self.margin
        squares = np.stack([centre, centre + arm, centre - arm], 1).astype(np.intp)
        half = np.clip(np.rint(bodies[:, 4] * packing), 1, self.margin // 2 - 4).astype(int).tolist()
        flat = squares[..., 0] * self.side + squares[..., 1]
        occupied, array, placed = self.bytes, self.array, []
        free = np.flatnonzero(~np.frombuffer(occupied, np.uint8)[flat].any(1))
        for index, (middle, tip, foot) in zip(free.tolist(), flat[free].tolist(), strict=True):
            if occupied[middle] or occupied[tip] or occupied[foot]:
                continue
            radius = half[index]
            placed.append(index)
            for y, x in squares[index].tolist()[: 1 if tip == foot else 3]:
                array[y - radius : y + radius + 1, x - radius : x + radius + 1] = 1
        return placed


class _Canvas:
    """Renders bodies in grid pixels onto maps of another resolution."""

    def __init__(self, resolution: int) -> None:
        self.resolution = resolution
        self.scale = resolution / GRID

    def enlarge(self, part: np.ndarray) -> np.ndarray:
        """Resizes a map of the structure grid to the resolution of the canvas."""
        return _resize(part, self.resolution)

    def nuclei(
        self, bodies: np.ndarray, rough: np.ndarray, vesicular: float, variety: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns chromatin density (about 0..1.3) and coverage (0..1)."""
        index, radius, tone, grain = self._patches(bodies, rough, 0.16)
        cover = _edge(1 - radius, 0.16)
        hollow = vesicular * np.exp(-((radius / 0.62) ** 2))
        density = cover * (1 - hollow + 0.16 * grain) * (1 + variety * tone)
        return self._gather(index, density), self._gather(index, cover)

    def vacuoles(self, bodies: np.ndarray, rough: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the fractions of each pixel that are mucin and the cell wall around it, 0..1."""
        index, radius, tone, _ = self._patches(bodies, rough, 0.06)
        mucin = self._gather(index, _edge(1 - radius, 0.16) * np.clip(0.9 + 0.1 * tone, 0.5, 1))
        return mucin, self._gather(index, np.exp(-(((radius - 1.08) / 0.14) ** 2)))

    def _patches(self, bodies: np.ndarray, rough: np.ndarray, irregularity: float) -> tuple[np.ndarray, ...]:
        """Returns the pixels of all bodies: flat index, elliptical radius, tone of the body, and grain."""
        if not len(bodies):
            empty = np.zeros((0,), np.float32)
            return np.zeros((0,), np.intp), empty, empty, empty
        y, x = (bodies[:, :2].T + 0.5) * self.scale - 0.5
        long, wide = bodies[:, 3:5].T * self.scale
        angle, tone = bodies[:, 2, None], bodies[:, 5]
        half = int(np.ceil(np.quantile(long, 0.97) * 1.2 + 0.5))
        offset = np.arange(-half, half + 1)
        rows, columns = (np.rint(part).astype(np.intp)[:, None] + offset for part in (y, x))
        down, right = (rows - y[:, None]).astype(np.float32), (columns - x[:, None]).astype(np.float32)
        along = (down * np.sin(angle))[:, :, None] + (right * np.cos(angle))[:, None, :]
        across = (down * np.cos(angle))[:, :, None] - (right * np.sin(angle))[:, None, :]
        along, across = along / long[:, None, None], across / wide[:, None, None]
        radius = np.sqrt(along * along + across * across)
        limit = self.resolution - 1
        beyond_y, beyond_x = ((part < 0) | (part > limit) for part in (rows, columns))
        radius[beyond_y[:, :, None] | beyond_x[:, None, :]] = np.inf
        index = rows[:, :, None] * self.resolution + columns[:, None, :]
        within = radius < 1.4
        index, radius = index[within], radius[within]
        tone = np.broadcast_to(tone[:, None, None], within.shape)[within]
        grain = rough.ravel()[index]
        return index, radius + irregularity * grain, tone, grain

    def _gather(self, index: np.ndarray, value: np.ndarray) -> np.ndarray:
        canvas = np.zeros(self.resolution * self.resolution, np.float32)
        np.maximum.at(canvas, index, value.astype(np.float32))
        return canvas.reshape(self.resolution, self.resolution)


def _edge(level: np.ndarray, width: float) -> np.ndarray:
    """Returns 0 below -width, 1 above width and a smooth step between."""
    step = np.clip(0.5 + 0.5 * level / np.float32(width), 0, 1)
    return step * step * (3 - 2 * step)


def _noise(rng: np.random.Generator, cells: int) -> np.ndarray:
    """Returns smooth noise (GRID, GRID) of about unit variance with about `cells` independent values across."""
    coarse = rng.standard_normal((cells + 2, cells + 2)).astype(np.float32)
    picture = Image.fromarray(coarse).resize((GRID, GRID), Image.Resampling.BICUBIC, box=(1, 1, cells + 1, cells + 1))
    return np.asarray(picture) * np.float32(1.3)


def _resize(part: np.ndarray, side: int) -> np.ndarray:
    part = np.ascontiguousarray(part, np.float32)
    if len(part) != side:
        part = np.asarray(Image.fromarray(part).resize((side, side), Image.Resampling.BICUBIC))
    return part
