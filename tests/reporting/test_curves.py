"""Learning curves of several runs: arms, and confidence bands over seeds."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dim_jax import report
from dim_jax.reporting.curves import arms
from dim_jax.runs import files

CONFIG = {
    "trainer": "classifier",
    "seed": 0,
    "data": {"path": "d", "backend": "tf", "cache_gib": 4.0},
    "loss": {"m": 4.0, "name": "fafl"},
    "model": {"stages": [[8], [16]]},
    "train": {"tensorboard": True, "keep_checkpoints": 2},
}
VALUES = st.floats(-1e6, 1e6)


def changed(**fields):
    """CONFIG with some fields set, named as group__field or field."""
    config = {name: dict(value) if isinstance(value, dict) else value for name, value in CONFIG.items()}
    for name, value in fields.items():
        group, _, field = name.rpartition("__")
        (config[group] if group else config)[field] = value
    return config


def make_run(folder, config, values=(0.5,), split="val", metric="macro_f1", epochs=None):
    """Writes the curve of one metric, one value per epoch."""
    if config is not None:
        files.write_json(folder / "config.json", config)
    epochs = range(1, len(values) + 1) if epochs is None else epochs
    lines = [
        f'{{"step": {10 * number}, "split": "{split}", "epoch": {epoch}, "{metric}": {value!r}}}\n'
        for number, (epoch, value) in enumerate(zip(epochs, values, strict=True), start=1)
    ]
    files.write_text(folder / "metrics.jsonl", "".join(lines))
    return folder


def table(curves):
    """Columns as `load_curves` gives them, of {(run, arm, seed): (epochs, values)} for the validation macro-F1."""
    rows = [
        (run, arm, seed, "val", 10 * number, epoch, "macro_f1", value)
        for (run, arm, seed), (epochs, values) in curves.items()
        for number, (epoch, value) in enumerate(zip(epochs, values, strict=True), start=1)
    ]
    names = ("run", "arm", "seed", "split", "step", "epoch", "metric", "value")
    kinds = (object, object, np.int64, object, np.int64, float, object, float)
    columns = zip(*rows, strict=True)
    return {name: np.array(column, kind) for name, column, kind in zip(names, columns, kinds, strict=True)}


def seeds(values, epochs=None):
    """One arm "a" with a run per row of `values`."""
    return table(
        {
            (f"run{seed}", "a", seed): (range(1, len(row) + 1) if epochs is None else epochs[seed], row)
            for seed, row in enumerate(values)
        }
    )


def test_an_arm_is_what_differs_and_its_seeds_share_it():
    arm_of = arms(
        {
            "ce": changed(loss__name="cross_entropy"),
            "fafl0": CONFIG,
            "fafl1": changed(seed=1, loss__m=4),
            "fafl16": changed(loss__m=16.0),
        }
    )
    assert arm_of == {
        "ce": "loss.name=cross_entropy, loss.m=4",
        "fafl0": "loss.name=fafl, loss.m=4",
        "fafl1": "loss.name=fafl, loss.m=4",
        "fafl16": "loss.name=fafl, loss.m=16",
    }


def test_settings_without_effect_on_the_numbers_make_no_arm():
    other = changed(
        seed=3, data__backend="packed", data__cache_gib=0.0, train__tensorboard=False, train__keep_checkpoints=9
    )
    assert arms({"a": CONFIG, "b": other}) == {"a": "a", "b": "a"}


def test_missing_fields_and_lists_are_part_of_an_arm():
    arm_of = arms({"a": CONFIG, "b": changed(model__stages=[[8]], data__path="e", train__new=0.25)})
    assert arm_of == {
        "a": "data.path=d, model.stages=[[8], [16]], train.new=unset",
        "b": "data.path=e, model.stages=[[8]], train.new=0.25",
    }


def test_numbers_that_differ_in_their_last_digits_are_two_arms():
    assert len(set(arms({"a": changed(loss__m=0.1), "b": changed(loss__m=0.1 + 1e-15)}).values())) == 2


def test_a_run_without_configuration_is_an_arm_by_itself(tmp_path):
    make_run(tmp_path / "a", CONFIG)
    make_run(tmp_path / "b", changed(seed=5))
    make_run(tmp_path / "c", None)
    curves = report.load_curves([tmp_path / name for name in "abc"])
    assert curves["arm"].tolist() == ["a", "a", "c"]
    assert curves["seed"].dtype == np.int64 and curves["seed"].tolist() == [0, 5, -1]


@pytest.mark.parametrize("seed", [None, "x", True, 2**70, -3, 1.5])
def test_an_invalid_seed_is_unknown(tmp_path, seed):
    run = make_run(tmp_path / "a", changed(seed=seed))
    assert report.load_curves([run])["seed"].tolist() == [-1]


def test_a_damaged_configuration_causes_a_warning_and_the_curves_are_loaded(tmp_path):
    run = make_run(tmp_path / "a", None)
    files.write_text(run / "config.json", "{")
    with pytest.warns(UserWarning, match=r"config\.json is not valid JSON"):
        curves = report.load_curves([run])
    assert curves["arm"].tolist() == ["a"] and curves["value"].tolist() == [0.5]


def test_every_split_and_number_is_in_the_table(tmp_path):
    files.write_text(
        tmp_path / "metrics.jsonl",
        '{"step": 8, "split": "train", "epoch": 0.5, "loss": 1.5, "seconds": 2.5, "seconds_per_step": null}\n'
        '{"step": 8, "split": "checkpoint", "epoch": 0.5, "seconds": 0.125}\n',
    )
    curves = report.load_curves([tmp_path])
    rows = list(zip(curves["split"], curves["metric"], curves["value"], strict=True))
    assert rows[:3] == [("checkpoint", "seconds", 0.125), ("train", "loss", 1.5), ("train", "seconds", 2.5)]
    assert rows[3][:2] == ("train", "seconds_per_step") and math.isnan(rows[3][2])


def test_equal_texts_share_one_string(tmp_path):
    make_run(tmp_path / "a", changed(data__path="long" * 200), [0.5] * 50)
    make_run(tmp_path / "b", CONFIG)
    curves = report.load_curves([tmp_path / "a", tmp_path / "b"])
    assert len({id(arm) for arm in curves["arm"]}) == 2


def test_two_seeds_have_the_hand_computed_interval():
    band = report.confidence_band(seeds([[0.4, 0.5], [0.6, 0.5]]), "val", "macro_f1")["a"]
    # t(0.975, 1) = 12.706; s = 0.1 sqrt(2); s / sqrt(2) = 0.1.
    np.testing.assert_allclose(band.mean, [0.5, 0.5])
    np.testing.assert_allclose(band.high - band.mean, [1.2706, 0], atol=1e-4)
    np.testing.assert_allclose(band.mean - band.low, [1.2706, 0], atol=1e-4)
    assert band.num_seeds == 2 and band.epoch.tolist() == [1, 2]


def test_three_seeds_at_another_confidence():
    band = report.confidence_band(seeds([[1.0], [2.0], [3.0]]), "val", "macro_f1", confidence=0.9)["a"]
    # t(0.95, 2) = 2.9200; s = 1.
    np.testing.assert_allclose([band.low[0], band.high[0]], [2 - 2.92 / 3**0.5, 2 + 2.92 / 3**0.5], atol=1e-4)


@given(st.lists(st.lists(VALUES, min_size=3, max_size=3), min_size=2, max_size=5), st.randoms())
def test_a_band_contains_its_mean_and_does_not_depend_on_the_order_of_the_runs(values, random):
    band = report.confidence_band(seeds(values), "val", "macro_f1")["a"]
    assert (band.low <= band.mean).all() and (band.mean <= band.high).all()
    np.testing.assert_allclose(band.mean, np.mean(values, axis=0), rtol=1e-12, atol=1e-6)
    random.shuffle(values)
    again = report.confidence_band(seeds(values), "val", "macro_f1")["a"]
    np.testing.assert_array_equal([band.mean, band.low, band.high], [again.mean, again.low, again.high])


@given(st.lists(VALUES, min_size=1, max_size=5), st.integers(2, 6))
def test_equal_seeds_have_a_band_of_no_width(values, count):
    band = report.confidence_band(seeds([values] * count), "val", "macro_f1")["a"]
    np.testing.assert_allclose(band.high, band.low, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(band.mean, values, rtol=1e-12)


def test_a_single_seed_has_a_line_and_no_band():
    band = report.confidence_band(seeds([[0.25, 0.5]]), "val", "macro_f1")["a"]
    assert band.num_seeds == 1 and band.mean.tolist() == [0.25, 0.5]
    assert np.isnan(band.low).all() and np.isnan(band.high).all()


def test_runs_of_the_same_seed_count_once():
    curves = table({("r", "a", 0): ([1], [0.25]), ("s", "a", 0): ([1], [0.75]), ("t", "a", 1): ([1], [1.0])})
    band = report.confidence_band(curves, "val", "macro_f1")["a"]
    assert band.num_seeds == 2 and band.mean.tolist() == [0.75]
    unknown = table({("r", "a", -1): ([1], [0.25]), ("s", "a", -1): ([1], [0.75])})
    assert report.confidence_band(unknown, "val", "macro_f1")["a"].num_seeds == 2


def test_the_grid_holds_the_epochs_that_all_seeds_cover():
    curves = seeds([[0.0, 2.0, 4.0], [1.0, 3.0]], epochs=[[1, 3, 5], [2, 4]])
    band = report.confidence_band(curves, "val", "macro_f1")["a"]
    assert band.epoch.tolist() == [2, 3, 4]
    np.testing.assert_allclose(band.mean, [1.0, 2.0, 3.0])


def test_an_undefined_value_is_not_interpolated():
    band = report.confidence_band(seeds([[0.5, math.nan, 0.5], [0.5, 0.5, 0.5]]), "val", "macro_f1")["a"]
    np.testing.assert_array_equal(np.isnan(band.mean), [False, True, False])
    np.testing.assert_array_equal(np.isnan(band.low), [False, True, False])


def test_curves_are_averaged_over_blocks_of_epochs():
    curves = seeds([[1.0, 3.0, 5.0, 7.0]], epochs=[[0.5, 1.0, 1.5, 2.0]])
    band = report.confidence_band(curves, "val", "macro_f1", every=1.0)["a"]
    assert band.epoch.tolist() == [1, 2] and band.mean.tolist() == [2, 6]


@pytest.mark.parametrize(("last", "shown"), [(2.1, [1, 2]), (2.5, [1, 2, 3])])
def test_an_incomplete_last_block_is_left_out(last, shown):
    curves = seeds([[1.0, 3.0, 5.0, 7.0, 9.0]], epochs=[[0.5, 1.0, 1.5, 2.0, last]])
    assert report.confidence_band(curves, "val", "macro_f1", every=1.0)["a"].epoch.tolist() == shown


def test_the_only_block_is_shown_even_if_incomplete():
    band = report.confidence_band(seeds([[1.0, 3.0]], epochs=[[0.1, 0.2]]), "val", "macro_f1", every=1.0)["a"]
    assert band.epoch.tolist() == [1] and band.mean.tolist() == [2]


def test_arms_come_in_the_order_of_the_runs_and_rows_without_epoch_are_left_out():
    curves = table({("r", "b", 0): ([1, math.nan], [0.5, 9]), ("s", "a", 0): ([1], [1.0]), ("t", "b", 1): ([1], [1])})
    bands = report.confidence_band(curves, "val", "macro_f1")
    assert list(bands) == ["b", "a"] and bands["b"].mean.tolist() == [0.75]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "f2"}, "metric='f2' in split='val'; metrics of this split: macro_f1"),
        ({"split": "train"}, "metrics of this split: none"),
        ({"confidence": 95}, "confidence=95"),
        ({"every": 0.0}, "every=0.0"),
    ],
)
def test_bad_arguments_of_a_band_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        report.confidence_band(seeds([[1.0]]), **{"split": "val", "metric": "macro_f1", **options})
