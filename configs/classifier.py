"""LRF-CNN with the corrected FAFL on a prepared dataset or a folder of class folders.

    python -m dim_jax.train --config=configs/classifier.py --config.data.path=DATA --workdir=runs/a

Variants, after a colon:
  test   the same job in seconds: one narrow block, 32 px, one epoch
  demo   narrow and small enough for two CPU cores: 64 px, an eighth of the widths
  small  64 px and a quarter of the widths, 25 epochs: what docs/results.md reports
  linear    a linear head on frozen EfficientNet-Lite0 features: seconds, once they are computed
  finetune  EfficientNet-Lite0 from its ImageNet weights, 224 px

With --config.model.name=efficientnet_lite2 --config.data.image_size=260, finetune trains EfficientNet-Lite2.
"""

import ml_collections


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.trainer = "classifier"
    config.seed = 0  # of initial weights, the order of images, augmentation and dropout

    config.data = ml_collections.ConfigDict()
    config.data.path = ""  # what `prepare` wrote, a folder of class folders, or "phantom"
    config.data.phantom_scale = 1.0  # size of the synthetic set where path is "phantom"
    config.data.fold = 0  # which fold of the split
    config.data.backend = "tf"  # tf streams images of any number; resident keeps all on the device; features: linear
    config.data.feature_network = "efficientnet_lite0"  # of backend=features: it, efficientnet_lite2 or zoo:NAME
    config.data.image_size = 299  # px
    config.data.resize = "squash"  # squash, crop or pad
    config.data.mean = ()  # normalise by these, red, green and blue in [0, 1]; (): by those of the training images
    config.data.std = ()  # standard deviations, like mean
    config.data.cache_gib = 4.0  # keep decoded pixels in memory if all fit into this
    config.data.generated = ""  # list of generated images (selected.json)
    config.data.generated_count = -1  # how many of them; -1: all
    config.data.generated_weight = 1.0  # draws of a generated image for one of a real image
    config.data.enlarge_generated = False  # allow smaller ones; their blur gives their class away, docs/generating.md
    config.data.epoch_of = "all"  # images whose number is an epoch's draws; real: equal steps with generated ones
    config.data.class_balanced = False  # draw all classes equally often

    config.augment = ml_collections.ConfigDict()
    config.augment.flip = True  # horizontally, at random
    config.augment.rotate = True  # by multiples of 90 degrees, at random
    config.augment.stain_jitter = 0.1  # of each stain's amount, in optical density; 0: off
    config.augment.function = ""  # package.module:function(key, image) -> image, applied after those above; "": none
    config.augment.mixing = "none"  # mixup, cutmix or balanced_mixup: mix every example with a second one
    config.augment.mixing_alpha = 0.2  # of the Beta distribution of the second one's share; 1 is usual for cutmix
    config.augment.test_time_views = False  # average the final predictions over these flips and turns

    # Further options of the chosen model and loss, such as stages or m, may be set beside these.
    config.model = ml_collections.ConfigDict()
    config.model.name = "lrf_cnn"  # see docs/configuration.md; or package.module:Class
    config.model.width = 1.0  # multiplies all channel counts
    config.model.dtype = "float32"  # of the computation; bfloat16 keeps parameters and sums in float32

    config.loss = ml_collections.ConfigDict()
    config.loss.name = "fafl"  # see docs/configuration.md; or package.module:function

    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.name = "adam"  # adam, adamw (decoupled decay), rmsprop or sgd
    config.optimizer.learning_rate = 1e-3  # peak of the schedule
    config.optimizer.learning_rate_scaling = "none"  # linear or sqrt: with the global batch size, see learning_rates.py
    config.optimizer.reference_batch_size = 32  # the batch that learning_rate is for; linear and sqrt only
    config.optimizer.weight_decay = 1e-5  # L2, added to the gradient; of adamw decoupled
    config.optimizer.momentum = 0.0  # sgd only
    config.optimizer.clip_norm = 0.0  # 0: off
    config.optimizer.schedule = "cosine"  # constant, step or cosine
    config.optimizer.warmup_epochs = 1.0  # linear rise from 0
    config.optimizer.decay_epochs = 20.0  # step only
    config.optimizer.decay_rate = 0.5  # step only
    config.optimizer.backbone_learning_rate_scale = 1.0  # multiplies the learning rate of all layers but the head

    config.train = ml_collections.ConfigDict()
    config.train.num_epochs = 100.0  # passes over the images that are drawn from
    config.train.global_batch_size = 32  # of all devices together; a multiple of their number
    config.train.eval_batch_size = 64  # of all devices together; changes speed alone
    config.train.steps_per_dispatch = 8  # steps that the devices do per call; all durations are multiples of it
    config.train.eval_every_epochs = 1.0  # between evaluations on validation images
    config.train.checkpoint_every_epochs = 1.0  # between checkpoints to resume from
    config.train.checkpoint_seconds_apart = 60.0  # at least; the last one is always written
    config.train.keep_checkpoints = 2  # how many of those are kept, beside the best one
    config.train.best_metric = "macro_f1"  # on validation images, chooses the checkpoint that is tested
    config.train.tensorboard = True  # write TensorBoard events beside metrics.jsonl
    config.train.report = True  # write report.html at the end
    config.train.initial_weights = "random"  # imagenet (EfficientNet-Lite) or the path of a run; both with a new head
    config.train.head_only_share = 0.0  # share of the run in which the head alone is trained, before all layers
    config.train.ema_decay = 0.0  # evaluate a moving average of the weights, such as 0.999; 0: the weights themselves
    config.train.rebalance = "none"  # for the last part of the run: class weights, sampling or an offset of the logits
    config.train.rebalance_from = 0.8  # share of the run after which that part begins
    config.train.rebalance_tau = 1.0  # of logit_offset: multiplies the logarithm of the class frequencies

    if variant == "test":
        config.data.image_size = 32
        config.data.phantom_scale = 0.03
        config.model.width = 0.125
        config.model.stages = ((64,),)
        config.train.global_batch_size = 8
        config.train.eval_batch_size = 16
        config.train.num_epochs = 1.0
        config.train.steps_per_dispatch = 2
        config.train.checkpoint_seconds_apart = 0.0
        config.train.tensorboard = False
    elif variant == "demo":
        config.data.image_size = 64
        config.model.width = 0.125
        config.train.num_epochs = 12.0
        config.train.global_batch_size = 16
    elif variant == "small":
        config.data.image_size = 64
        config.model.width = 0.25
        config.train.num_epochs = 25.0
        config.train.global_batch_size = 16
    elif variant == "linear":
        config.data.image_size = 224
        config.data.backend = "features"
        config.augment.flip = config.augment.rotate = False
        config.augment.stain_jitter = 0.0
        config.model = ml_collections.ConfigDict({"name": "linear"})
        config.train.num_epochs = 40.0
        config.train.eval_batch_size = 512
        config.train.steps_per_dispatch = 32
        config.train.checkpoint_every_epochs = 40.0
        config.train.keep_checkpoints = 1
        config.train.tensorboard = False
    elif variant == "finetune":
        config.data.image_size = 224
        config.data.mean = (127 / 255,) * 3  # what the published weights expect
        config.data.std = (128 / 255,) * 3
        config.model.name = "efficientnet_lite0"
        config.optimizer.learning_rate = 1e-4
        config.train.num_epochs = 20.0
        config.train.initial_weights = "imagenet"
    elif variant:
        raise ValueError(f"configs/classifier.py has no variant {variant!r}; use test, demo, small, linear or finetune")
    return config
