"""A fabricated page of a selection: one class with selected images, and one of which all images were rejected."""

from pathlib import Path

import numpy as np
from PIL import Image

from dim_jax.reporting import selection_page
from dim_jax.reporting.closest_pairs import Pictures

SELECTED, REJECTED = "normal", "polyp"


def render(folder: Path) -> str:
    """Writes noise images to `folder` and returns the page."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*(f"{label}{seed}.png" for label in (SELECTED, REJECTED) for seed in range(6)), "real.png"):
        Image.fromarray(rng.integers(0, 255, (24, 24, 3), np.uint8)).save(folder / name)

    def entry(label: str, seed: int, **more: str) -> dict:
        distances = {f"{kind}_{what}": value for kind in ("feature", "pixel")
                     for what, value in (("distance", 0.4), ("nearest", "real.png"))}  # fmt: skip
        scores = {"seed": seed, "probability": 0.1 * seed, "class_distance": 1.0}
        return {"path": f"{label}{seed}.png", "label": label, **scores, **distances, **more}

    def counts(kept: int, **rejected: int) -> dict:
        numbers = {"generated": 6, "kept": kept, "reject_rate": sum(rejected.values()) / 6}
        medians = ("held_out_probability", "class_distance", "train_feature", "held_out_feature", "train_pixel")
        refused = {"refused": "6 images are too few", "num_real": 9}
        return numbers | {
            "rejected": dict.fromkeys(selection_page.REASONS, 0) | rejected,
            "limits": {"probability": 0.5, "class_distance": 2.0, "feature": 0.3, "pixel": 0.1},
            "real": {name: {"median": 1.0} for name in (*medians, "held_out_pixel")},
            "metrics": {"pool": refused, "selected": refused},
        }

    selected = {
        "classes": {SELECTED: counts(2, duplicate_in_pool=4), REJECTED: counts(0, wrong_class=5, far_from_class=1)},
        "images": [entry(SELECTED, seed) for seed in range(2)],
        "pool": {name: {"workdir": "runs/gan", "checkpoint_step": 5, "sha256": "ab" * 32}
                 for name in (SELECTED, REJECTED)},
        "classifier": {"workdir": "runs/a", "checkpoint_step": 3},
        "features": {"name": "classifier", "space": "features of runs/a"},
        "split_sha256": "cd" * 32,
        "rules": {"least_probability": 0.5},
    }  # fmt: skip
    rejected = [entry(SELECTED, seed, reason="duplicate_in_pool") for seed in range(2, 6)]
    rejected += [entry(REJECTED, seed, reason="wrong_class") for seed in range(5)]
    rejected += [entry(REJECTED, 5, reason="far_from_class")]
    kinds = ("validation images", "training images, to other cases", "all generated images")
    nearest = {name: {kind: (rng.random(9), rng.random(9)) for kind in kinds} for name in (SELECTED, REJECTED)}
    return selection_page.render(selected, rejected, nearest, Pictures(folder.joinpath, folder.joinpath))
