"""Diffusion model of one minority class of a prepared dataset, or of all of its classes at once.

    python -m dim_jax.train --config=configs/diffusion.py --config.data.path=DATA --config.diffusion.label=normal \\
        --workdir=runs/diffusion_normal

The same command with a larger --config.train.num_train_steps continues a run that has ended.

Variants, after a colon; several are joined by commas:
  conditional  one class-conditional model over all classes, drawn equally often; allows guidance
  test         the same job in seconds; of all classes
"""

import ml_collections


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.trainer = "diffusion"
    config.seed = 0  # of initial weights, the order of images, augmentation and noise

    config.data = ml_collections.ConfigDict()
    config.data.path = ""  # what `prepare` wrote, a folder of class folders, or "phantom"
    config.data.phantom_scale = 1.0  # size of the synthetic set where path is "phantom"
    config.data.fold = 0  # which fold of the split; its training images are the only ones a generator sees
    config.data.backend = "tf"  # tf streams images of any number; resident keeps all on the device, without TensorFlow
    config.data.image_size = 64  # px; a multiple of 8 with the default network
    config.data.resize = "squash"  # squash, crop or pad
    config.data.cache_gib = 4.0  # keep decoded pixels in memory if all fit into this

    config.diffusion = ml_collections.ConfigDict()
    config.diffusion.label = ""  # the class to learn
    config.diffusion.conditional = False  # learn all classes instead, each drawn equally often
    config.diffusion.label_dropout = 0.1  # share of images that are seen without their label; guidance needs some
    config.diffusion.sigma_data = 0.5  # standard deviation of pixels in [-1, 1], for the preconditioning
    config.diffusion.noise_mean = -1.2  # of the logarithm of the noise level in training
    config.diffusion.noise_std = 1.2  # of the logarithm of the noise level in training
    config.diffusion.ema_decay = 0.999  # of the moving average of the weights, which images are drawn with
    config.diffusion.sampling_steps = 18  # of Heun's sampler, for sample sheets and unless `generate` is told otherwise
    # After each sample sheet this many images per class are compared with validation images; `generate` uses the newest
    # checkpoint whose images are no copies of training images. 0: no audit, and the newest checkpoint.
    config.diffusion.audit_images = 32  # of each class, from 10 on; 0: none

    config.augment = ml_collections.ConfigDict()
    config.augment.flip = True  # horizontally, at random
    config.augment.rotate = True  # by multiples of 90 degrees, at random

    config.model = ml_collections.ConfigDict()
    config.model.width = 1.0  # multiplies all channel counts
    config.model.patch = 2  # px: side of the squares that are one position of the first map
    config.model.channels = (64, 128, 128)  # of each level; every level but the first halves the resolution
    config.model.blocks = 2  # residual blocks of each level, on the way down and on the way up
    config.model.attention_side = 16  # attention in maps of at most this side
    config.model.dtype = "float32"  # of the computation; bfloat16 keeps parameters and sums in float32

    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.name = "adam"  # adam, rmsprop or sgd
    config.optimizer.learning_rate = 3e-4  # constant
    config.optimizer.learning_rate_scaling = "none"  # linear or sqrt: with the global batch size, see learning_rates.py
    config.optimizer.reference_batch_size = 16  # the batch that learning_rate is for; linear and sqrt only

    config.train = ml_collections.ConfigDict()
    config.train.num_train_steps = 40_000  # length of the run in steps
    config.train.global_batch_size = 16  # of all devices together; a multiple of their number
    config.train.steps_per_dispatch = 10  # steps that the devices do per call; all durations are multiples of it
    config.train.sample_every = 2_000  # steps
    config.train.checkpoint_every = 1_000  # steps
    config.train.checkpoint_seconds_apart = 60.0  # at least; the last one is always written
    config.train.keep_checkpoints = 2  # how many are kept
    config.train.tensorboard = True  # write TensorBoard events beside metrics.jsonl
    config.train.report = True  # write report.html at the end

    for name in filter(None, variant.split(",")):
        if name == "conditional":
            config.diffusion.conditional = True
        elif name == "test":
            config.diffusion.conditional = True
            config.diffusion.sampling_steps = 2
            config.diffusion.audit_images = 0
            config.data.phantom_scale = 0.05
            config.data.image_size = 32
            config.model.width = 1 / 8
            config.model.channels = (64, 64)
            config.model.blocks = 1
            config.model.attention_side = 8
            config.train.global_batch_size = 8
            config.train.num_train_steps = 4
            config.train.steps_per_dispatch = 2
            config.train.sample_every = 2
            config.train.checkpoint_every = 2
            config.train.checkpoint_seconds_apart = 0.0
            config.train.tensorboard = False
        else:
            raise ValueError(f"configs/diffusion.py has no variant {name!r}; use conditional or test")
    return config
