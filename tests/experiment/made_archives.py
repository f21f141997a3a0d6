"""Archived predictions of runs that were never trained."""

import numpy as np

from dim_jax.experiment import archive, plan
from dim_jax.runs import files


def write(experiment, run, quality):
    """Writes the predictions of a run whose logits favour the truth by `quality` on validation and on test images."""
    dataset = experiment.dataset(run.fold)
    folder = run.folder(experiment.site)
    for number, split in enumerate(archive.SPLITS):
        rows = dataset.rows(split)[::-1]  # in no particular order
        rng = np.random.default_rng([run.fold, run.seed, number])
        logits = rng.normal(size=(len(rows), len(dataset.classes)))
        logits[np.arange(len(rows)), dataset.labels[rows]] += quality[split]
        files.write_json(folder / "eval" / split / "metrics.json", {"checkpoint_step": 8})
        np.savez(folder / "eval" / split / "predictions.npz", index=rows, logits=logits.astype(np.float32))
    config = plan.classifier_config(experiment.config, run, experiment.site)
    start = experiment.fingerprint_of_start(run)
    archive.write(run.archive(experiment.site), folder, config, run.arm.count, dataset, start)
