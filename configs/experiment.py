"""Experiments: what to train on these data, and do GCGAN's images and FAFL help? One command from images to a report.

    python -m dim_jax.train --config=configs/experiment.py:recipe --config.data.path=DATA --workdir=runs/recipe
    python -m dim_jax.train --config=configs/experiment.py --config.data.path=DATA --workdir=runs/dim

Every arm is trained on the folds of a cross-validation by case, with every seed; the predictions of the test parts are
pooled, so that each image is judged once by models that never saw its case. docs/protocol.md says what was fixed before
any test prediction was read. `--dry-run` prints the plan and starts nothing. The same command continues; more arms,
seeds or folds may be asked for later.

Variants, after a colon; several are joined by commas:
  recipe       what to train: methods for small and imbalanced sets on a fine-tuned EfficientNet-Lite0, and an ensemble
  quick        with recipe: one split, one seed, no choice of method, in well under an hour on two CPU cores
  small        64 px, a quarter of the widths, five networks a fold, one seed: for two CPU cores; see docs/results.md
  linear       every loss as a linear head on frozen EfficientNet-Lite0 features, five seeds: minutes per fold
  paper        {CE, GCGAN, FAFL, both} on every model there is, as in the published figure
  sensitivity  FAFL's parts alone, and its alpha0, beta0 and m around the published values
  demo         on synthetic tissue, with linear heads and a generator that is trained already: minutes on two cores
  test         the same job in seconds; also with recipe
"""

import importlib.util
from pathlib import Path

import ml_collections

# What a practitioner would do first: ImageNet weights, the head replaced, everything trained with a small rate.
FINETUNED = {
    "model": {"name": "efficientnet_lite0", "width": 1.0},
    "data": {"mean": (127 / 255,) * 3, "std": (128 / 255,) * 3},
    "optimizer": {"learning_rate": 1e-4},
    "train": {"initial_weights": "imagenet", "num_epochs": 20.0},
}
# The networks of `paper` by the name of their rows.
MODELS = {
    "lrf_cnn": {"model": {"name": "lrf_cnn"}},
    "light_lrf_cnn": {"model": {"name": "light_lrf_cnn"}},
    "efficientnet_lite0": {"model": {"name": "efficientnet_lite0"}},
    "finetuned_lite0": FINETUNED,
    "wavemix": {"model": {"name": "wavemix"}},
    "coatnet": {"model": {"name": "coatnet"}},
}
# Losses of `linear` beside cross-entropy and corrected FAFL, by what tables call them.
LOSSES = {
    "weighted_cross_entropy": "Weighted CE",
    "focal": "Focal loss",
    "class_balanced_cross_entropy": "Class-balanced CE",
    "class_balanced_focal": "Class-balanced focal loss",
    "ldam": "LDAM",
    "balanced_softmax": "Balanced softmax",
    "logit_adjusted_cross_entropy": "Logit-adjusted CE",
    "ohem_cross_entropy": "OHEM",
    "soft_f1": "CE + SoftF1",
    "soft_mcc": "CE + SoftMCC",
    "published_fafl": "FAFL, published",
}
CROSS_ENTROPY = {"loss": {"name": "cross_entropy"}}
FAFL = {"loss": {"name": "fafl", "m": 4.0}}
PUBLISHED_FAFL = {"loss": {"name": "published_fafl", "m": 1.0}}
# Averaged weights, and flips and turns at test time: what the methods of `recipe` are added to.
AVERAGED = {"train": {"ema_decay": 0.99}, "augment": {"test_time_views": True}}
UNAUGMENTED = {"augment": {"flip": False, "rotate": False, "stain_jitter": 0.0}}


def arm(
    title: str, *settings: dict, added: str = "", count: int = 0, tune: dict | None = None, tau: float = 0.0, **more
) -> ml_collections.ConfigDict:
    """One arm: fields of the classifier's configuration that it sets, and the images it adds; or what it is made of.

    Args:
      title: what tables call it.
      settings: fields to set, as nested dicts.
      added: where more images come from: a generator's name (selected ones), that name followed by _unselected, or
        copies (of real training images of the minority classes), or shrunk_copies (the same ones shrunk to the size
        of generated images, a control for their blur); "" adds none.
      count: how many, over all minority classes together; -1 as many as make all classes equal.
      tune: {"field": ..., "values": ...}: one field ("set.loss.m", "count", "share" or "tau") whose value is chosen in
        every fold by the validation images.
      tau: strength of post-hoc logit adjustment.
      **more: share=S instead of a count, to add S times as many images to each minority class as it has real training
        images; adjust=True, to choose that strength in every fold by the validation images; start=ARM, to start from
        the weights of that arm's run of the same fold and seed; seeds=N, to train with the first N seeds alone. Instead
        of settings, members=(ARM, ...): an ensemble; or choices=(ARM, ...): the one of them that validation prefers.
    """
    merged = ml_collections.ConfigDict()
    for setting in settings:
        merged.update(ml_collections.ConfigDict(setting))
    fields = {"title": title, "set": merged, "added": added, "count": count, "tau": tau}
    fields["tune"] = ml_collections.ConfigDict(tune or {"field": "", "values": ()})
    fields |= {"share": 0.0, "start": "", "members": (), "choices": (), "adjust": False, "seeds": 0} | more
    return ml_collections.ConfigDict(fields)


def question(text: str, subject: str, arm: str, than: str) -> ml_collections.ConfigDict:
    """One contrast: `arm` against `than`; `subject` begins the sentence that answers it."""
    return ml_collections.ConfigDict({"text": text, "subject": subject, "arm": arm, "than": than})


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.trainer = "experiment"
    config.seed = 0  # of the split; the arms' seeds are below

    config.data = ml_collections.ConfigDict()
    config.data.path = ""  # a folder of class folders, what `prepare --split=kfold` wrote, tfds:NAME, or "phantom"
    config.data.more = ()  # further sets, each like path: the same experiment on each, one page for all
    config.data.phantom_scale = 1.0  # size of the synthetic set where path is "phantom"
    config.data.classes = ""  # A,B,C: class names in label order; "": those found, sorted
    config.data.exclude = ""  # A,B: classes to leave out
    config.data.group_regex = ""  # finds the case in an image's path, where no manifest.csv gives it
    config.data.folds = 5  # of the cross-validation by case

    config.folds = ()  # which folds to work on; (): all
    config.seeds = (0, 1, 2)  # every arm is trained with each
    config.only = ""  # A,B: names of the arms to train; "": all. Finished ones are always reported

    config.minority_share = 0.6  # classes below this share of the largest class's training images get a GAN
    config.pool = ml_collections.ConfigDict()
    config.pool.images = 200  # drawn per minority class
    config.pool.truncation = 1.0  # of GANs: scale of the latents; below 1 images vary less
    config.pool.guidance = 1.0  # of diffusion models with labels: classifier-free guidance; above 1 images vary less
    config.pool.judge = "cross_entropy"  # the arm whose first seed says whether an image is of its class
    config.pool.features = "efficientnet_lite2"  # in which distances are measured; or efficientnet_lite0, classifier
    config.pool.least_probability = 0.5  # rules of `select`
    config.pool.distance_quantile = 0.95  # of real images' distances to their class
    config.pool.distance_slack = 1.0  # multiplies that quantile
    config.pool.copy_quantile = 0.01  # of real images' distances to the nearest of another case

    config.metric = "macro_f1"  # the one that the questions are about
    config.offsets = "prior"  # of adjusted arms: one strength for all classes (prior), or an offset of each (class)
    config.resamples = 10_000  # of the case bootstrap, and swaps of the sign-flip test

    classifier, gan, diffusion = _config("classifier"), _config("gan"), _config("diffusion")
    config.classifier = classifier.get_config()
    config.classifier.data.image_size = 224
    config.classifier.data.backend = "resident"
    config.gan = gan.get_config()  # one per minority class; gan.conditional=True: one for all
    config.gan.data.backend = "resident"
    config.diffusion = diffusion.get_config("conditional")  # one for all classes
    config.diffusion.data.backend = "resident"
    # Generators by the name that arms call them by: fields that each sets in config.gan, or, with "trainer":
    # "diffusion", in config.diffusion.
    config.generators = ml_collections.ConfigDict()
    config.generators.gcgan = ml_collections.ConfigDict()
    config.generators.fastgan = ml_collections.ConfigDict({"model": {"gate": "sle", "up": "compound"}})
    config.generators.diffusion = ml_collections.ConfigDict({"trainer": "diffusion"})

    config.arms = ml_collections.ConfigDict()
    config.questions = ml_collections.ConfigDict()
    config.order = ()  # of arms and questions in tables; the first arm is what others are shown against
    config.primary = "dim"  # the question that was fixed in advance, "" for none; all others are exploratory
    config.recommended = ""  # the arm that the page advises to train and that is made ready for predict; "" for none
    # What the published figure shows and this system cannot run, and why.
    config.not_run = ml_collections.ConfigDict()

    names = list(filter(None, variant.split(",")))
    for name in {"linear", "demo"} & set(names):
        if len(names) > 1:
            raise ValueError(f"configs/experiment.py:{name} goes with no other variant: it has one size")
    others = set(names) - {"recipe", "quick", "test"}
    if ("recipe" in names and others) or ("quick" in names and "recipe" not in names):
        raise ValueError(f"configs/experiment.py:{variant}: recipe goes with quick or test, and quick with recipe")
    known = ("recipe", "quick", "small", "linear", "paper", "sensitivity", "demo", "test")
    for name in names:
        if name not in known:
            raise ValueError(f"configs/experiment.py has no variant {name!r}; use {', '.join(known)}")
    if "demo" in names:
        _demo(config, classifier)
    elif "linear" in names:
        _losses_on_frozen_features(config, classifier)
    elif "recipe" in names:
        _recipe(config, classifier, gan, names)
    elif "paper" in names:
        _published_grid(config, gan)
    elif "sensitivity" in names:
        _sensitivity(config)
    else:
        _protocol(config)
    if "small" in names:
        config.classifier.update(classifier.get_config("small"))
        config.classifier.data.backend = "resident"
        config.gan.update(gan.get_config("published,small" if "paper" in names else "small"))
        config.gan.gan.perceptual = "lite0"
        config.gan.data.backend = "resident"
        config.gan.train.num_train_steps = 5_000
        config.seeds = (0,)
        if "paper" not in names and "sensitivity" not in names:
            config.only = "cross_entropy,fafl,generated_30,dim,oversampling,logit_adjusted"
    if "test" in names:
        _shrink(config, classifier.get_config("test"), gan.get_config("conditional,test"))
        config.diffusion.update(diffusion.get_config("test"))
        config.diffusion.data.image_size = 64
        config.diffusion.data.backend = "resident"
        config.diffusion.train.tensorboard = False
        config.classifier.data.image_size = 32 if "recipe" in names else 64  # generated images have 64 px
        config.data.path = "phantom"
        config.data.phantom_scale = 0.08
        config.data.folds = 3
        config.folds = (0, 1)
        config.seeds = (0,)
        config.pool.images = 10  # 30 for three classes
        # After four steps of a GAN no image would pass.
        config.pool.least_probability = config.pool.copy_quantile = 0.0
        config.pool.distance_slack = 1000.0
        config.only = "" if "recipe" in names else "cross_entropy,dim"
        config.resamples = 200
    return config


def _config(name: str):
    """Returns a sibling of this file: configurations are files, not a package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _shrink(config, classifier, gan) -> None:
    config.classifier.update(classifier)
    config.gan.update(gan)
    for part in (config.classifier, config.gan):
        part.data.backend = "resident"
        part.train.tensorboard = False


def _keep(config, arms: dict, questions: dict) -> None:
    # A ConfigDict sorts its fields by name.
    config.arms, config.questions = ml_collections.ConfigDict(arms), ml_collections.ConfigDict(questions)
    config.order = (*arms, *questions)


def _protocol(config) -> None:
    """The arms and questions of docs/protocol.md: the two levels of DIM, and a sceptic's controls."""
    arms, ask = {}, {}
    arms["cross_entropy"] = arm("CE", CROSS_ENTROPY)
    arms["fafl"] = arm("FAFL, corrected", FAFL)
    arms["fafl_published"] = arm("FAFL, published", PUBLISHED_FAFL)
    for count in (15, 30, 45, 60):
        arms[f"generated_{count}"] = arm(f"CE + {count} generated", CROSS_ENTROPY, added="gcgan", count=count)
    arms["generated_balanced"] = arm("CE + generated, classes equal", CROSS_ENTROPY, added="gcgan", count=-1)
    arms["dim"] = arm("DIM: FAFL + 30 generated", FAFL, added="gcgan", count=30)
    arms["oversampling"] = arm("CE, classes drawn equally often", CROSS_ENTROPY, {"data": {"class_balanced": True}})
    arms["copies_30"] = arm("CE + 30 copies of real images", CROSS_ENTROPY, added="copies", count=30)
    arms["unselected_30"] = arm("CE + 30 unselected", CROSS_ENTROPY, added="gcgan_unselected", count=30)
    arms["fastgan_30"] = arm("CE + 30 of FastGAN", CROSS_ENTROPY, added="fastgan", count=30)
    arms["unaugmented"] = arm("CE, no augmentation", CROSS_ENTROPY, UNAUGMENTED)
    arms["unaugmented_generated_30"] = arm(
        "CE + 30 generated, no augmentation", CROSS_ENTROPY, UNAUGMENTED, added="gcgan", count=30
    )
    arms["logit_adjusted"] = arm("CE, logits adjusted afterwards", CROSS_ENTROPY, tau=1.0)
    arms["finetuned"] = arm("fine-tuned Lite0: CE", FINETUNED, CROSS_ENTROPY)
    arms["finetuned_dim"] = arm("fine-tuned Lite0: DIM", FINETUNED, FAFL, added="gcgan", count=30)

    ask["dim"] = question("Does DIM help?", "DIM (FAFL and 30 generated images)", "dim", "cross_entropy")
    ask["generated"] = question("Do GCGAN's images help?", "30 GCGAN images", "generated_30", "cross_entropy")
    ask["fafl"] = question("Does FAFL help?", "FAFL", "fafl", "cross_entropy")
    ask["published"] = question("Does FAFL as published help?", "Published FAFL", "fafl_published", "cross_entropy")
    ask["images_beside_fafl"] = question(
        "Do the images add anything to FAFL?", "30 GCGAN images beside FAFL", "dim", "fafl"
    )
    ask["oversampling"] = question(
        "Is DIM better than drawing all classes equally often?", "DIM instead of oversampling", "dim", "oversampling"
    )
    ask["oversampling_alone"] = question(
        "Does drawing all classes equally often help?", "Oversampling", "oversampling", "cross_entropy"
    )
    ask["copies"] = question(
        "Are generated images better than as many copies of real ones?",
        "Generated images instead of copies",
        "generated_30",
        "copies_30",
    )
    ask["selection"] = question("Does selection help?", "Selecting the images", "generated_30", "unselected_30")
    ask["gcgan"] = question("Is GCGAN better than FastGAN?", "GCGAN instead of FastGAN", "generated_30", "fastgan_30")
    ask["balanced"] = question(
        "Does it help to make all classes equal?", "Filling all classes up", "generated_balanced", "cross_entropy"
    )
    ask["augmentation"] = question("Does augmentation alone help?", "Augmentation", "cross_entropy", "unaugmented")
    ask["without_augmentation"] = question(
        "Do the images help where there is no augmentation?",
        "30 GCGAN images without augmentation",
        "unaugmented_generated_30",
        "unaugmented",
    )
    ask["logit_adjusted"] = question(
        "Is DIM better than adjusting CE's logits afterwards?", "DIM instead of adjusting", "dim", "logit_adjusted"
    )
    ask["adjusting_alone"] = question(
        "Does adjusting CE's logits afterwards help?", "Adjusting the logits", "logit_adjusted", "cross_entropy"
    )
    ask["finetuned_dim"] = question(
        "Does DIM help a fine-tuned ImageNet network?", "DIM on fine-tuned Lite0", "finetuned_dim", "finetuned"
    )
    ask["finetuned"] = question(
        "Is LRF-CNN with DIM better than fine-tuning an ImageNet network?",
        "LRF-CNN with DIM instead of fine-tuned Lite0",
        "dim",
        "finetuned",
    )
    _keep(config, arms, ask)


def _losses_on_frozen_features(config, classifier) -> None:
    """Every loss as a linear head; what needs tuning is tuned on each fold's validation images."""
    config.classifier = classifier.get_config("linear")
    config.seeds = (0, 1, 2, 3, 4)
    arms, ask = {}, {}
    arms["cross_entropy"] = arm("CE", CROSS_ENTROPY)
    arms["label_smoothing"] = arm("CE, labels smoothed", CROSS_ENTROPY, {"loss": {"label_smoothing": 0.1}})
    arms["fafl"] = arm("FAFL, corrected", FAFL, tune={"field": "set.loss.m", "values": (1.0, 4.0, 16.0)})
    for name, title in LOSSES.items():
        arms[name] = arm(title, PUBLISHED_FAFL if name == "published_fafl" else {"loss": {"name": name}})
    arms["oversampling"] = arm("CE, classes drawn equally often", CROSS_ENTROPY, {"data": {"class_balanced": True}})
    arms["post_hoc_adjusted"] = arm(
        "CE, logits adjusted afterwards", CROSS_ENTROPY, tune={"field": "tau", "values": (0.5, 1.0, 1.5)}
    )
    arms["fafl_frequency"] = arm(
        "FAFL, frequency part alone", FAFL, {"loss": {"alpha0": 1.0, "beta0": 0.0, "adaptive": 0.0}}
    )
    arms["fafl_adaptive"] = arm("FAFL, adaptive part alone", FAFL, {"loss": {"m": 0.0}})
    config.primary = ""
    for name in arms:
        if name != "cross_entropy":
            title = arms[name].title
            ask[name] = question(f"Is “{title}” better than cross-entropy?", title, name, "cross_entropy")
    _keep(config, arms, ask)


def _demo(config, classifier) -> None:
    """Synthetic tissue, linear heads on frozen features, and images of a generator that is trained already."""
    config.classifier = classifier.get_config("linear")
    config.classifier.data.feature_network = "zoo:ebhi-seg"
    config.classifier.data.image_size = 128
    config.classifier.train.num_epochs = 20.0
    config.classifier.train.checkpoint_every_epochs = 20.0
    config.data.path = "phantom"
    config.data.phantom_scale = 2.0
    config.folds, config.seeds = (0,), (0,)
    config.generators = ml_collections.ConfigDict({"gcgan": {"run": "zoo:phantom-normal"}})
    config.minority_share = 0.1  # the rarest class, which that generator was trained on
    config.pool.images = 200
    config.pool.judge = "small"
    config.pool.features = "classifier"
    config.metric, config.offsets = "g_mean", "class"
    config.resamples = 2_000
    small = {"data": {"image_size": 64}}  # that of the generated images
    arms, ask = {}, {}
    arms["cross_entropy"] = arm("CE", CROSS_ENTROPY)
    arms["adjusted"] = arm("CE, logits adjusted afterwards", CROSS_ENTROPY, adjust=True)
    arms["balanced"] = arm("CE, classes drawn equally often", CROSS_ENTROPY, {"data": {"class_balanced": True}})
    arms["fafl"] = arm("FAFL", FAFL)
    arms["small"] = arm("CE, 64 px", CROSS_ENTROPY, small)
    arms["generated"] = arm("CE, 64 px, 30 generated", CROSS_ENTROPY, small, added="gcgan", count=30)
    arms["dim"] = arm("DIM, 64 px: FAFL, 30 generated", FAFL, small, added="gcgan", count=30)

    def compare(name: str, text: str, subject: str, than: str = "cross_entropy") -> None:
        ask[name] = question(text, subject, name, than)

    compare("adjusted", "What does adjusting the logits afterwards give?", "Adjusting the logits")
    compare("balanced", "What does drawing all classes equally often give?", "Class-balanced sampling")
    compare("fafl", "What does FAFL give?", "FAFL")
    compare("generated", "What do generated images give?", "Adding generated images", "small")
    compare("dim", "What do FAFL and generated images give?", "DIM (FAFL and generated images)", "small")
    _keep(config, arms, ask)
    config.primary = ""  # the demo was arranged with its test images in view, so nothing was fixed in advance
    config.recommended = "adjusted"
    config.not_run = ml_collections.ConfigDict({
        "Other folds and seeds": "a fifth of the images is tested, once; :recipe and the default take five folds",
        "Whole networks": "only last layers are trained here; :recipe trains whole networks, in hours",
    })  # fmt: skip


def _published_grid(config, gan) -> None:
    """The published figure: each network with CE, with generated images, with FAFL, and with both, all as published.

    But for the GAN's size, 256 px instead of 1024, and its perceptual network: LPIPS needs two files of weights.
    """
    config.gan = gan.get_config("published")
    config.gan.gan.perceptual = "lite0"
    config.gan.data.image_size = 256
    config.gan.data.backend = "resident"
    config.gan.model.tanh = False
    arms, ask = {}, {}
    for model, own in MODELS.items():
        arms[f"{model}_ce"] = arm(f"{model}: CE", own, CROSS_ENTROPY)
        arms[f"{model}_gcgan"] = arm(f"{model}: GCGAN", own, CROSS_ENTROPY, added="gcgan", count=30)
        arms[f"{model}_fafl"] = arm(f"{model}: FAFL", own, PUBLISHED_FAFL)
        arms[f"{model}_both"] = arm(f"{model}: both", own, PUBLISHED_FAFL, added="gcgan", count=30)
        ask[model] = question(f"Does DIM help {model}?", f"DIM on {model}", f"{model}_both", f"{model}_ce")
    _keep(config, arms, ask)
    config.primary = ""
    config.pool.judge = "lrf_cnn_ce"
    config.not_run = ml_collections.ConfigDict({
        "DDPM": "a diffusion model of another project; the figure compares its images with GCGAN's",
        "CONCH": "weights on request from their owners",
        "ROAM": "weights on request from their owners",
        "CHIEF": "weights on request from their owners",
    })  # fmt: skip


def _sensitivity(config) -> None:
    """FAFL's parts alone, and one hyper-parameter at a time around alpha0 = 0.5, beta0 = 3, m = 4."""
    arms, ask = {}, {}
    arms["cross_entropy"] = arm("CE", CROSS_ENTROPY)
    arms["fafl"] = arm("FAFL, corrected", FAFL)
    arms["fafl_frequency"] = arm("frequency part alone", FAFL, {"loss": {"alpha0": 1.0, "beta0": 0.0, "adaptive": 0.0}})
    arms["fafl_adaptive"] = arm("adaptive part alone", FAFL, {"loss": {"m": 0.0}})
    for name, values in {"alpha0": (0.25, 1.0, 2.0), "beta0": (1.0, 2.0, 4.0), "m": (0.5, 1.0, 2.0, 16.0)}.items():
        for value in values:
            arms[f"fafl_{name}_{value:g}".replace(".", "_")] = arm(f"{name} = {value:g}", FAFL, {"loss": {name: value}})
    config.primary = ""
    for name in arms:
        if name != "cross_entropy":
            title = arms[name].title
            ask[name] = question(
                f"Is FAFL ({title}) better than cross-entropy?", f"FAFL, {title}", name, "cross_entropy"
            )
    _keep(config, arms, ask)


def _recipe(config, classifier, gan, names) -> None:
    """What to train: part 2 of docs/protocol.md. Every arm is shown without and with the adjustment of its logits."""
    config.classifier = classifier.get_config("finetune")
    config.classifier.data.image_size = 160
    config.classifier.data.backend = "resident"
    config.classifier.train.global_batch_size = 16
    config.classifier.train.num_epochs = 10.0
    config.classifier.train.tensorboard = False
    config.classifier.train.keep_checkpoints = 1
    config.gan = gan.get_config("small")  # not used; its size is that of no image here
    arms, ask = {}, {}

    def add(name: str, title: str, *settings: dict, **more) -> None:
        own = (CROSS_ENTROPY, *settings) if settings or name == "base" else ()
        arms[name] = arm(title, *own, **more)
        arms[f"{name}_adjusted"] = arm(f"{title}, adjusted", *own, **more, adjust=True)

    new_head = {
        "train": {"head_only_share": 1.0},
        "data": {"class_balanced": True},
        "optimizer": {"learning_rate": 1e-3},
    }
    from_scratch = {
        "model": {"name": "lrf_cnn", "width": 0.25},
        "data": {"image_size": 64, "mean": (), "std": ()},
        "optimizer": {"learning_rate": 1e-3},
        "train": {"initial_weights": "random", "num_epochs": 25.0},
    }
    add("base", "fine-tuned Lite0")
    if "test" in names:
        add("crt", "new head", new_head, start="base", seeds=1)
        add("chosen", "chosen recipe", choices=("base", "crt"))
        add("ensemble", "ensemble", members=("chosen", "base", "crt"))
    elif "quick" in names:
        add("averaged", "Lite0, EMA and views", AVERAGED)
        add("lrf_cnn", "LRF-CNN, 64 px, EMA and views", AVERAGED, from_scratch)
        add("ensemble", "ensemble of the two", members=("averaged", "lrf_cnn"))
        config.folds, config.seeds = (0,), (0,)
        config.not_run = ml_collections.ConfigDict({
            "Other folds": "a fifth of the images is tested, so intervals are wide, and rare classes have few images",
            "Other seeds": "how much a second training of the same network differs is unknown",
            "MixUp, deferred re-balancing and other methods": "what each adds is not measured; :recipe compares them",
        })  # fmt: skip
    else:
        methods = {
            "mixup": ("MixUp", {"augment": {"mixing": "mixup"}}),
            "balanced_mixup": ("Balanced-MixUp", {"augment": {"mixing": "balanced_mixup"}}),
            "deferred": ("deferred offset", {"train": {"rebalance": "logit_offset", "rebalance_from": 0.8}}),
            "crt": ("new head on classes drawn equally often (cRT)", new_head),
        }
        add("averaged", "Lite0, EMA and views", AVERAGED, seeds=1)
        for name, (title, own) in methods.items():
            start = "averaged" if name == "crt" else ""
            add(name, f"Lite0, EMA, views, {title}", AVERAGED, own, start=start, seeds=1)
        add("lite2", "Lite2, EMA and views", AVERAGED, {"model": {"name": "efficientnet_lite2"}}, seeds=1)
        add("lrf_cnn", "LRF-CNN, 64 px, EMA and views", AVERAGED, from_scratch, seeds=1)
        add("chosen", "chosen recipe", choices=("base", "averaged", *methods, "lite2"))
        add("ensemble", "ensemble", members=("averaged", "chosen", "lite2", "lrf_cnn"))

    def compare(name: str, text: str, subject: str, than: str) -> None:
        if name in arms and than in arms:
            ask[name.removesuffix("_adjusted")] = question(text, subject, name, than)

    compare("ensemble_adjusted", "What should I train: the ensemble or a plain fine-tuned network?",
            "The adjusted ensemble instead of plain fine-tuning", "base")  # fmt: skip
    compare("base_adjusted", "What does adjusting the logits afterwards give?", "Adjusting the logits", "base")
    compare("averaged_adjusted", "What do averaged weights and test-time views give?",
            "EMA and views, beside adjusting", "base_adjusted")  # fmt: skip
    for name, (title, _) in methods.items() if "averaged_adjusted" in arms and "chosen" in arms else ():
        compare(f"{name}_adjusted", f"What does this give: {title}?", f"{title}, beside EMA, views and adjusting",
                "averaged_adjusted")  # fmt: skip
    compare("lite2_adjusted", "What does a larger network give?", "Lite2 instead of Lite0, both with EMA, views and "
            "adjusting", "averaged_adjusted")  # fmt: skip
    compare("chosen_adjusted", "What does the chosen recipe give beside adjusting?",
            "The chosen recipe, beside adjusting", "base_adjusted")  # fmt: skip
    if "chosen_adjusted" in arms:
        ask["members"] = question("What does the ensemble give beside the chosen recipe?",
                                  "The ensemble instead of the chosen recipe, both adjusted",
                                  "ensemble_adjusted", "chosen_adjusted")  # fmt: skip
    _keep(config, arms, ask)
    config.primary = "ensemble"
    config.recommended = "ensemble_adjusted"
    config.pool.judge = "base"
