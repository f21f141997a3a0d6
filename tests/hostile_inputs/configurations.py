"""Malformed configurations on command lines, in files and in run directories."""

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path

from dim_jax.runs import files
from hostile_inputs.corpus import CORPUS, Case, World, changed
from hostile_inputs.prepared_data import trained


def config_case(name: str, options: tuple[str, ...], *words: str) -> None:
    """Adds a command line that sets a field of the configuration to an invalid value."""
    CORPUS[name] = ("configurations", lambda folder, world: trained(folder, world, world.data, words, *options))


def config_file(name: str, text: str | bytes, *words: str) -> None:
    """Adds a configuration file."""

    def make(folder: Path, world: World) -> Case:
        path = folder / "config.py"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return Case("train", (f"--config={path}", f"--workdir={folder / 'run'}"), words)

    CORPUS[name] = ("configurations", make)


def saved_config(name: str, change: Callable[[dict], object] | bytes, *words: str, command: str = "predict") -> None:
    """Adds a run with a changed config.json, for a command that reads it."""

    def make(folder: Path, world: World) -> Case:
        run = shutil.copytree(world.gan if command == "generate" else world.classifier, folder / "run")
        if isinstance(change, bytes):
            (run / "config.json").write_bytes(change)
        else:
            changed(run / "config.json", change)
        out, images_of = f"--out={folder / 'out'}", [str(world.slides)] if command == "predict" else []
        arguments = (*images_of, f"--workdir={run}", *([] if command == "evaluate" else [out]))
        return Case(command, arguments, words)

    CORPUS[name] = ("configurations", make)


config_case("unknown_field", ("--config.train.learning_rte=1",), "unknown configuration field", "learning_rte")
config_case("unknown_group", ("--config.trian.num_epochs=1",), "unknown configuration field", "trian")
config_case("text_for_a_number", ("--config.train.num_epochs=many",), "num_epochs")
config_case("number_for_a_flag", ("--config.augment.flip=7",), "flip")
config_case("learning_rate_of_nan", ("--config.optimizer.learning_rate=nan",), "learning_rate=nan is no finite number")
config_case("infinite_epochs", ("--config.train.num_epochs=inf",), "num_epochs=inf is no finite number")
config_case("negative_learning_rate", ("--config.optimizer.learning_rate=-1",), "learning_rate=-1.0 must be a number")
config_case("negative_seed", ("--config.seed=-1",), "config.seed=-1 must be a whole number from 0")
config_case("huge_seed", ("--config.seed=99999999999999999999",), "config.seed=")
config_case("huge_batch", (f"--config.train.global_batch_size={8 * 10**12}",), "global_batch_size=8000000000000 must")
config_case("huge_image", ("--config.data.image_size=1000000",), "config.data.image_size=1000000 must be")
config_case("huge_network", ("--config.model.width=1e9",), "config.model.width=1000000000.0 must be")
config_case("dispatches_of_a_million_steps", ("--config.train.steps_per_dispatch=1000000",), "steps_per_dispatch=")
config_case("no_checkpoint_kept", ("--config.train.keep_checkpoints=0",), "keep_checkpoints=0 must be")
config_case("negative_cache", ("--config.data.cache_gib=-1",), "config.data.cache_gib=-1.0 must be")
config_case("jitter_beyond_1", ("--config.augment.stain_jitter=40",), "config.augment.stain_jitter=40.0 must be")
config_case("momentum_beyond_1", ("--config.optimizer.momentum=3",), "config.optimizer.momentum=3.0 must be")
config_case("words_for_the_mean", ("--config.data.mean=('a','b','c')",), "config.data.mean=")
config_case(
    "mixing_for_a_loss_that_ranks", ("--config.augment.mixing=mixup", "--config.loss.name=soft_f1"), "counts or"
)
config_case("head_first_on_random_weights", ("--config.train.head_only_share=0.2",), "none that were learned")
config_case("initial_weights_of_no_run", ("--config.train.initial_weights=no/run",), "no/run holds no run")
config_case("fold_that_is_none", ("--config.data.fold=-1",), "config.data.fold=-1 must be")
config_case("trainer_with_a_path", ("--config.trainer=../../evil",), "is not a trainer")
config_case("model_with_a_dunder", ("--config.model.name=__class__",), "is not a model")
config_case("stages_of_text", ("--config.model.stages=('a','b')",), "config.model")
config_file("config_that_does_not_parse", "def get_config(:\n", "config.py")
config_file("config_of_bytes", bytes(range(128, 256)), "config.py")
config_file("config_without_get_config", "x = 1\n", "get_config")
config_file("config_that_raises", "def get_config():\n    return 1 / 0\n", "division by zero")
config_file("config_that_returns_a_dict", "def get_config():\n    return {'trainer': 'classifier'}\n", "config.py")
config_file("config_that_returns_nothing", "def get_config():\n    pass\n", "config.py")
config_file(
    "config_of_a_trainer_alone",
    "import ml_collections\ndef get_config():\n    return ml_collections.ConfigDict({'trainer': 'classifier'})\n",
    "config.seed is missing",
)
config_file(
    "config_with_a_function",
    "import ml_collections\ndef get_config():\n    return ml_collections.ConfigDict({'trainer': print})\n",
    "config.trainer is a builtin_function_or_method",
)
saved_config("config_json_of_nothing", b"", "config.json", "is not valid JSON")
saved_config("config_json_that_is_a_list", b"[]", "config.json", "not a JSON object")
saved_config("config_json_of_an_empty_object", b"{}", "not of a classifier")
saved_config("config_json_without_data", lambda saved: saved.pop("data"), "config.data.path is missing")
saved_config("config_json_with_text_for_data", lambda saved: saved.update(data="x"), "config.data.path is missing")
saved_config(
    "config_json_of_a_huge_image",
    lambda saved: saved["data"].update(image_size=10**9),
    "config.json: config.data.image_size=1000000000 must be",
)
saved_config(
    "config_json_with_text_for_a_size",
    lambda saved: saved["data"].update(image_size="32"),
    "config.data.image_size='32' must be",
)
saved_config("config_json_of_fold_7", lambda saved: saved["data"].update(fold=7), "fold 7 does not exist")
saved_config("config_json_of_an_unknown_model", lambda saved: saved["model"].update(name="x"), "is not a model")
saved_config("config_json_with_a_field_of_no_model", lambda saved: saved["model"].update(legs=4), "config.model.legs")
saved_config("config_json_with_half_a_mean", lambda saved: saved["data"].update(mean=[0.5]), "config.data.mean")
saved_config("config_json_of_a_run_that_is_none", b'{"trainer": 7}', "run of a 7", command="generate")
saved_config("gan_without_a_label", lambda saved: saved["gan"].pop("label"), "gan.label is missing", command="generate")
saved_config("gan_of_an_odd_size", lambda saved: saved["data"].update(image_size=100), "100", command="generate")
saved_config(
    "evaluation_of_no_batch",
    lambda saved: saved["train"].pop("eval_batch_size"),
    "config.train.eval_batch_size is missing",
    command="evaluate",
)


def resumed(name: str, change: Callable[[dict], object], *words: str) -> None:
    """Adds a run to resume with a changed config.json."""

    def make(folder: Path, world: World) -> Case:
        spec = importlib.util.spec_from_file_location("ready", world.config)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        config = module.get_config("test").to_dict()
        config["data"]["path"] = str(world.data)
        files.write_json(folder / "run" / "config.json", config)
        changed(folder / "run" / "config.json", change)
        return Case("train", (f"--workdir={folder / 'run'}",), words)

    CORPUS[name] = ("configurations", make)


resumed("run_without_epochs", lambda config: config["train"].pop("num_epochs"), "config.train.num_epochs is missing")
resumed("run_without_a_group", lambda config: config.pop("augment"), "config.augment.flip is missing")
resumed(
    "run_with_text_for_epochs", lambda config: config["train"].update(num_epochs="9"), "config.train.num_epochs='9'"
)
resumed("run_of_a_list_of_trainers", lambda config: config.update(trainer=["gan"]), "config.json names no trainer")
resumed("run_with_a_null", lambda config: config["optimizer"].update(learning_rate=None), "learning_rate=None must be")
resumed("run_with_a_list_for_a_group", lambda config: config.update(train=[1]), "config.train")
saved_config("config_json_of_a_list_of_trainers", b'{"trainer": [1]}', "not of a classifier")
