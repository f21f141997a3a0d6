"""The arms and runs of an experiment, as its configuration describes them."""

import dataclasses
from pathlib import Path

import pytest

from dim_jax.experiment import arms as arms_of
from dim_jax.experiment import plan
from dim_jax.losses import LOSSES
from dim_jax.models import CLASSIFIERS
from dim_jax.runs import config_flags, files
from dim_jax.runs.configuration import override, parse_config

VARIANTS = (
    "", "small", "linear", "paper", "sensitivity", "demo", "test", "small,paper",
    "recipe", "recipe,quick", "recipe,test",
)  # fmt: skip


def configuration(variant=""):
    return files.to_json(config_flags.load_file(f"experiment:{variant}").to_dict())


def parsed(variant=""):
    return parse_config(configuration(variant))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_has_sound_arms_questions_and_an_answer_to_find(variant):
    config = parsed(variant)
    arms = arms_of.read_arms(config)
    questions = arms_of.read_questions(config, arms)
    trained = arms_of.chosen_names(config, arms)
    asked = [config.primary] if config.primary else list(questions)
    assert {arm for name in asked for arm in (questions[name].arm, questions[name].than)} <= set(trained)
    for arm in arms.values():
        for candidate in arm.candidates() if not arm.parts else ():
            settings = dict(candidate.settings)
            assert settings["loss.name"] in LOSSES
            assert settings.get("model.name", config.classifier.model.name) in CLASSIFIERS


def test_the_linear_variant_has_every_loss_and_the_paper_variant_every_published_model():
    named = {dict(arm.settings)["loss.name"] for arm in arms_of.read_arms(parsed("linear")).values()}
    assert named == set(LOSSES)
    models = {dict(arm.settings)["model.name"] for arm in arms_of.read_arms(parsed("paper")).values()}
    assert models == set(CLASSIFIERS) - {"linear", "efficientnet_lite2"}  # which the published figure does not have


def test_an_arm_with_values_to_choose_from_becomes_one_candidate_each():
    arm = arms_of.Arm("fafl", "FAFL", (("loss.m", 4.0),), tuned="set.loss.m", values=(1.0, 16.0))
    first, second = arm.candidates()
    assert (first.name, second.name) == ("fafl_1_0", "fafl_16_0")
    assert dict(second.settings)["loss.m"] == 16.0 and not second.tuned
    counts = arms_of.Arm("more", "more", added="gcgan", tuned="count", values=(15, 30)).candidates()
    assert [arm.count for arm in counts] == [15, 30]


def test_candidates_that_differ_after_training_alone_share_one_run():
    arms = {
        "ce": arms_of.Arm("ce", "CE", (("loss.name", "cross_entropy"),)),
        "adjusted": arms_of.Arm(
            "adjusted", "CE", (("loss.name", "cross_entropy"),), tuned="tau", values=(0.5, 1.0)
        ),
        "other": arms_of.Arm("other", "more", (("loss.name", "cross_entropy"),), added="gcgan", count=15),
    }  # fmt: skip
    runs = plan.runs(arms, list(arms), folds=(0, 1), seeds=(0, 1, 2))
    assert len(runs) == 2 * 3 * 2  # two trainings per fold and seed
    assert {run.arm.name for run in runs} == {"ce", "other"}
    assert [run.seed for run in runs] == sorted(run.seed for run in runs)  # the first seed is complete first


def test_settings_reach_the_classifiers_configuration_and_no_other_field():
    config = parsed()
    site = plan.Site("x", Path("runs/x"), Path("DATA"))
    arm = arms_of.read_arms(config)["dim"]
    own = plan.classifier_config(config, plan.PlannedRun(arm, 2, 7), site, 30)
    assert own.loss.name == "fafl" and own.seed == 7
    assert own.data.fold == 2 and own.data.generated_count == 30
    assert own.data.generated.endswith("fold2/gcgan/selected/selected.json")
    assert config.classifier.seed == 0  # the original is untouched
    assert own.model == config.classifier.model


def test_an_arm_keeps_what_its_loss_and_model_share_with_those_it_replaces():
    config = parsed()
    config = dataclasses.replace(
        config, classifier=override(config.classifier, [("loss.m", 16.0), ("model.width", 0.5)])
    )
    site = plan.Site("x", Path("runs/x"), Path("DATA"))

    def of(*settings):
        return plan.classifier_config(config, plan.PlannedRun(arms_of.Arm("a", "A", settings), 0, 0), site)

    published = of(("loss.name", "published_fafl"), ("model.name", "efficientnet_lite0"))
    assert published.loss.options["m"] == 16.0
    assert published.model.options["width"] == 0.5 and published.model.options["drop_connect"] == 0.0
    assert of(("loss.gamma", 3.0), ("loss.name", "focal")).loss.options == {"gamma": 3.0}


def test_generators_differ_in_what_they_set_and_share_the_rest():
    config, site = parsed(), plan.Site("x", Path("runs/x"), Path("DATA"))
    gcgan, fastgan = (plan.generator_configs(config, name, 0, site, ["a"])["a"] for name in ("gcgan", "fastgan"))
    assert gcgan.model.options["gate"] == "gc" and fastgan.model.options["gate"] == "sle"
    assert gcgan.train == fastgan.train
    alone = plan.generator_configs(config, "gcgan", 0, site, ["a", "b"])
    assert {name: gan.gan.label for name, gan in alone.items()} == {"a": "a", "b": "b"}
    config = dataclasses.replace(config, gan=override(config.gan, [("gan.conditional", True)]))
    assert list(plan.generator_configs(config, "gcgan", 0, site, ["a", "b"])) == [""]  # one draws all


def test_a_generator_may_be_a_diffusion_model():
    config, site = parsed(), plan.Site("x", Path("runs/x"), Path("DATA"))
    (label, diffusion), *others = plan.generator_configs(config, "diffusion", 1, site, ["a", "b"]).items()
    assert label == "" and not others  # one draws all
    assert diffusion.trainer == "diffusion" and (diffusion.data.path, diffusion.data.fold) == ("DATA", 1)
    assert plan.sampling(config, "diffusion") == {"guidance": 1.0}
    alone = dataclasses.replace(config, diffusion=override(config.diffusion, [("diffusion.conditional", False)]))
    configs = plan.generator_configs(alone, "diffusion", 0, site, ["a", "b"])
    assert {name: one.diffusion.label for name, one in configs.items()} == {"a": "a", "b": "b"}
    earlier = dataclasses.replace(config, diffusion=None)
    with pytest.raises(ValueError, match=r"there is no config\.diffusion to start from"):
        plan.generator_configs(earlier, "diffusion", 0, site, ["a"])


def test_arms_with_a_share_of_each_class_have_lists_and_runs_of_their_own():
    config = configuration()
    config["arms"]["quarter"] = {"added": "gcgan", "share": 0.25}
    config["arms"]["copies"] = {"added": "copies", "share": 0.25}
    config["arms"]["tuned"] = {"added": "gcgan", "tune": {"field": "share", "values": [0.25, 0.5]}}
    arms, site = arms_of.read_arms(parse_config(config)), plan.Site("x", Path("x"), Path("DATA"))
    lists = [site.image_list(0, arms[name]).as_posix() for name in ("generated_30", "quarter", "copies_30", "copies")]
    assert lists == [
        "x/fold0/gcgan/selected/selected.json",
        "x/fold0/gcgan/share_0_25.json",
        "x/fold0/copies.json",
        "x/fold0/copies_share_0_25.json",
    ]
    trained = plan.trained_as(arms)
    assert trained["tuned_0_25"] == trained["quarter"] != trained["tuned_0_5"]
    assert len({trained[name].amount for name in ("generated_30", "quarter", "tuned_0_5")}) == 3


def set_field(config, name, value):
    *path, last = name.split(".")
    for part in path:
        config = config[part]
    config[last] = value


@pytest.mark.parametrize("name, value, message", [
    ("arms", {}, "config.arms is empty"),
    ("arms.dim.set.loss", {"nam": "fafl"}, "config.arms.dim: 'loss.nam' is not an option of the loss fafl; it"),
    ("arms.cross_entropy.set.loss.m", 4.0, "'loss.m' is not an option of the loss cross_entropy; it has"),
    ("arms.dim.set", {"trian": {"num_epochs": 3}}, "config.arms.dim: 'trian.num_epochs' is not a field"),
    ("arms.dim.added", "gan", "config.arms.dim.added='gan' is unknown; choose one of copies, shrunk_copies, diffusion"),
    ("arms.dim.count", 0, "do not go together"),
    ("arms.dim.count", -2, "do not go together"),
    ("arms.fafl.count", 3, "do not go together"),
    ("arms.unselected_30.count", -1, "only selected images and copies have a number per class"),
    ("arms.unselected_30.tune", {"field": "count", "values": [15, -1]}, "only selected images and copies have"),
    ("arms.unselected_30.share", 0.5, "do not go together; give what to add and one of the two numbers"),
    ("arms.fafl.share", 0.5, "do not go together"),
    ("arms.fafl.tau", -1.0, "config.arms.fafl.tau=-1.0 must be a number of at least 0"),
    ("arms.fafl.tune", {"field": "set.loss.m", "values": [1.0]}, "give at least two values"),
    ("arms.fafl.tune", {"field": "set.loss.q", "values": [1.0, 2.0]}, "'loss.q' is not an option of the loss fafl"),
    ("pool.judge", "dim", "must be an arm that adds no images"),
    ("questions.dim.than", "ce", "config.questions.dim.than='ce' is not an arm"),
    ("primary", "all", "config.primary='all' is not one of the questions"),
    ("only", "cross_entropy,all", "config.only names 'all'"),
])  # fmt: skip
def test_a_configuration_that_makes_no_sense_is_refused_with_the_field(name, value, message):
    config = configuration()
    set_field(config, name, value)
    with pytest.raises(ValueError) as caught:
        config = parse_config(config)
        arms = arms_of.read_arms(config)
        arms_of.read_questions(config, arms)
        arms_of.chosen_names(config, arms)
    assert message in str(caught.value)
