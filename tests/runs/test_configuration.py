"""What a configuration may hold: every field has a rule, every rule a field, and the ready files keep to them."""

import importlib.util
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dim_jax.runs import configuration, workdir

CONFIGS = Path(__file__).parents[2] / "configs"
# Groups whose fields depend on the network, the loss or the arms; what builds these checks them.
FREE = ("model.", "loss.", "arms.", "questions.", "generators.", "not_run")


def ready(name):
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config().to_dict()


@pytest.mark.parametrize("name", ["classifier", "gan", "experiment", "published"])
def test_every_field_of_the_ready_files_has_a_rule_and_keeps_to_it(name):
    config = ready(name)
    configuration.check(config)
    configuration.check_plain(config)
    nested = ("classifier.", "gan.") if config["trainer"] == "experiment" else ()
    fields = {field for field in workdir.flatten_config(config) if not field.startswith((*FREE, *nested))}
    assert fields == {name for name in configuration.RULES[config["trainer"]] if not name.startswith(FREE)}


@pytest.mark.parametrize("value", [None, "1", True, 1.5, -1, 2**40, math.nan, math.inf, [1], {}])
def test_what_is_no_whole_number_in_range_is_none(value):
    config = ready("classifier")
    config["train"]["global_batch_size"] = value
    with pytest.raises(ValueError, match=r"config\.train\.global_batch_size=.* must be a whole number from 1"):
        configuration.check(config)


scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.binary(max_size=3))
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
)


@given(st.sampled_from(["classifier", "gan", "experiment"]), st.data())
def test_any_value_anywhere_is_allowed_or_refused_by_its_name(trainer, data):
    config = ready(trainer)
    name = data.draw(st.sampled_from(sorted(configuration.RULES[trainer])))
    *groups, last = name.split(".")
    place = config
    for group in groups:
        place = place[group]
    place[last] = data.draw(values) if last != "trainer" else trainer
    for check in (configuration.check, configuration.check_plain):
        try:
            check(config)
        except ValueError as error:
            assert f"config.{name}" in str(error)
