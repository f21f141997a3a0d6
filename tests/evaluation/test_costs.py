"""Costs of answers: reading them, answers of least expected cost, and their part in the adjustment."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dim_jax.evaluation import cases, validation
from dim_jax.evaluation.adjustment import TAUS, Adjustment, fit_adjustment
from dim_jax.evaluation.calibration import fit_temperature, probabilities
from dim_jax.evaluation.costs import Costs, from_json, read_costs
from dim_jax.runs import files

CLASSES = ("normal", "polyp", "carcinoma")
EQUAL = Costs(((0.0, 1.0, 1.0), (1.0, 0.0, 1.0), (1.0, 1.0, 0.0)))
MISSED = Costs(((0.0, 1.0, 1.0, 0.3), (1.0, 0.0, 1.0, 0.3), (20.0, 20.0, 0.0, 0.3)))  # carcinomas must not be missed


def images(seed=0, size=300):
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, p=(0.2, 0.7, 0.1), size=size)
    return 1.5 * rng.normal(size=(size, 3)) + 2 * np.eye(3)[labels] + np.log((0.2, 0.7, 0.1)), labels


@given(st.integers(0, 99))
def test_equal_costs_answer_the_most_probable_class_and_cost_the_error_rate(seed):
    logits, labels = images(seed, 40)
    np.testing.assert_array_equal(EQUAL.answers(probabilities(logits)), logits.argmax(-1))
    assert EQUAL.mean_of_logits(logits, labels) == pytest.approx((logits.argmax(-1) != labels).mean())


@given(hnp.arrays(np.float64, (3, 4), elements=st.floats(0, 10)), st.integers(0, 99))
def test_the_answer_has_the_least_expected_cost_and_abstention_is_one_of_them(matrix, seed):
    shares = probabilities(images(seed, 10)[0])
    costs = Costs(tuple(map(tuple, matrix.tolist())))
    for share, answer in zip(shares, costs.answers(shares), strict=True):
        expected = [sum(share[truth] * matrix[truth, other] for truth in range(3)) for other in range(4)]
        assert expected[answer] == pytest.approx(min(expected))
    doubled = Costs(tuple(map(tuple, (2 * matrix).tolist())))
    np.testing.assert_array_equal(doubled.answers(shares), costs.answers(shares))


def test_costly_misses_lower_the_threshold_of_that_class():
    logits, labels = images()
    plain, careful = EQUAL.answers(probabilities(logits)), MISSED.answers(probabilities(logits))
    missed = [np.sum((labels == 2) & (answers != 2) & (answers != 3)) for answers in (plain, careful)]
    assert missed[1] < missed[0] and (careful == 3).any()


def test_the_adjustment_with_costs_has_the_least_mean_cost_of_all_tau():
    logits, labels = images()
    counts = np.array([20, 70, 10])

    def mean_cost(tau):
        adjusted = Adjustment(float(tau))(logits, counts)
        return MISSED.mean_of_logits(adjusted / fit_temperature(adjusted, labels), labels)

    chosen = fit_adjustment(logits, labels, counts, MISSED)
    assert chosen.tau == TAUS[np.argmin([mean_cost(tau) for tau in TAUS])]


def test_the_stored_adjustment_keeps_the_costs_and_what_chose_it(tmp_path):
    logits, labels = images()
    written = validation.choose_adjustment(5, 1, logits, labels, [20, 70, 10], MISSED)
    validation.write_adjustment(tmp_path, written)
    assert validation.read_adjustment(tmp_path, 5, 3, 1) == written and written["criterion"] == "cost"
    assert validation.costs_of(written) == MISSED
    assert validation.stored_choice(tmp_path) == {"criterion": MISSED, "offsets": "prior"}
    assert validation.read_adjustment(tmp_path, 6, 3, 1) is validation.read_adjustment(tmp_path, 5, 3, 8) is None
    path = validation.folder(tmp_path) / validation.FILE_NAME
    for broken in ({"costs": None}, {"costs": [[1]]}, {"criterion": "macro_f1"}):
        files.write_json(path, written | broken)
        with pytest.raises(ValueError, match="is no adjustment of 3 classes"):
            validation.read_adjustment(tmp_path, 5, 3, 1)
    path.write_text("{")
    assert validation.stored_choice(tmp_path) == {}
    by_score = validation.choose_adjustment(5, 1, logits, labels, [20, 70, 10], "g_mean", "class")
    validation.write_adjustment(tmp_path, by_score)
    assert by_score["costs"] is None and validation.stored_choice(tmp_path)["criterion"] == "g_mean"


def test_the_mean_cost_has_an_interval_over_cases():
    _, labels = images()
    values = np.random.default_rng(1).random(len(labels))
    mean = cases.interval_mean(values, labels, np.arange(len(labels)) // 3, 3)
    assert mean["low"] < mean["value"] == pytest.approx(values.mean()) and mean["value"] < mean["high"]
    constant = cases.interval_mean(np.full(len(labels), 0.25), labels, np.arange(len(labels)), 3)
    assert constant["low"] == pytest.approx(0.25) == constant["high"]
    assert cases.interval_mean(values, labels, labels, 3)["low"] is None


def test_costs_are_read_in_any_order_and_with_abstention(tmp_path):
    path = tmp_path / "costs.csv"
    rows = ("truth, carcinoma,normal,abstain,polyp", "carcinoma,0,20,0.3,20", "polyp,1,1,0.3,0", "normal,1,0,0.3,1", "")
    path.write_text("\ufeff" + "\n".join(rows) + "\n", encoding="utf-8")
    assert read_costs(path, CLASSES) == MISSED
    assert from_json([list(row) for row in MISSED.matrix], 3) == MISSED
    for encoding in ("utf-8-sig", "utf-16"):
        path.write_text(
            "sep=;\n" * (encoding == "utf-16") + "\n".join(rows).replace(",", ";").replace(".", ","), encoding
        )
        assert read_costs(path, CLASSES) == MISSED


def test_classes_of_costs_may_be_in_another_unicode_form(tmp_path):
    path = tmp_path / "costs.csv"
    path.write_text("t;ade\u0301nome;b\nade\u0301nome;0;1\nb;2,5;0\n", encoding="utf-8")
    assert read_costs(path, ("ad\u00e9nome", "b")) == Costs(((0.0, 1.0), (2.5, 0.0)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the columns are missing"),
        ("t,normal,polyp\nnormal,0,1\npolyp,1,0", "the columns are normal, polyp; list every class once"),
        ("t,normal,polyp,carcinoma\nnormal,0,1,1\npolyp,1,0,1", "the rows are normal, polyp"),
        ("t,normal,polyp,carcinoma\nnormal,0,1\npolyp,1,0,1\ncarcinoma,1,1,0", "the row of normal has 2 costs"),
        ("t,normal,polyp,carcinoma\nnormal,0,-1,1\npolyp,1,0,1\ncarcinoma,1,1,0", "the cost '-1' of answering polyp"),
        ("t,normal,polyp,carcinoma\nnormal,0,x,1\npolyp,1,0,1\ncarcinoma,1,1,0", "no number from 0 on"),
        ("t;normal;polyp;carcinoma\nnormal;0;1,000;1\npolyp;1;0;1\ncarcinoma;1;1;0", "the cost '1,000' of answering"),
        ("t,normal,polyp,carcinoma\nnormal,0,nan,1\npolyp,1,0,1\ncarcinoma,1,1,0", "no number from 0 on"),
        ("t,normal,polyp,carcinoma,abstain,abstain\nnormal,0,1,1,1,1\npolyp,1,0,1,1,1\ncarcinoma,1,1,0,1,1", "twice"),
    ],
)
def test_a_table_that_is_none_of_costs_is_refused(tmp_path, text, words):
    (tmp_path / "costs.csv").write_text(text)
    with pytest.raises(ValueError, match=words):
        read_costs(tmp_path / "costs.csv", CLASSES)
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_costs(tmp_path / "none.csv", CLASSES)
