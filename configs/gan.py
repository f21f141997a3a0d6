"""GCGAN for one minority class of a prepared dataset, or for all of its classes at once.

    python -m dim_jax.train --config=configs/gan.py --config.data.path=DATA --config.gan.label=normal \\
        --workdir=runs/gan_normal

The same command with a larger --config.train.num_train_steps continues a run that has ended.

Variants, after a colon; several are joined by commas:
  published    every choice of the published code: batch 2, augmentation per scale, nearest small image, no tanh below
               1024 px, summed LPIPS, attention over the map itself, sampling on batch statistics
  fastgan      FastGAN's generator: gates without context attention, up blocks without the residual path
  conditional  one class-conditional GAN over all classes, drawn equally often
  small        64 px and a quarter of the widths, for two CPU cores: what docs/results.md reports
  test         the same job in seconds
"""

import ml_collections


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.trainer = "gan"
    config.seed = 0  # of initial weights, the order of images, augmentation and latents

    config.data = ml_collections.ConfigDict()
    config.data.path = ""  # what `prepare` wrote, a folder of class folders, or "phantom"
    config.data.phantom_scale = 1.0  # size of the synthetic set where path is "phantom"
    config.data.fold = 0  # which fold of the split; its training images are the only ones a GAN sees
    config.data.backend = "tf"  # tf streams images of any number; resident keeps all on the device, without TensorFlow
    config.data.image_size = 256  # px: 64, 128, 256, 512 or 1024
    config.data.resize = "squash"  # squash, crop or pad
    config.data.cache_gib = 4.0  # keep decoded pixels in memory if all fit into this

    config.gan = ml_collections.ConfigDict()
    config.gan.label = ""  # the class to learn
    config.gan.conditional = False  # learn all classes instead, each drawn equally often
    config.gan.condition_from = 0.25  # share of the run from which labels begin to count; until then all is one class
    config.gan.condition_until = 0.5  # share of the run from which they count in full; 0: from the start
    config.gan.perceptual = "lite0"  # distance of reconstructions: lite0, lpips_vgg16, pixels or none
    config.gan.vgg_weights = ""  # lpips_vgg16: torchvision's vgg16 file
    config.gan.lpips_weights = ""  # lpips_vgg16: the heads' file, vgg.pth of LPIPS v0.1
    config.gan.sum_reconstructions = False  # add up the distances of a batch, as published, instead of averaging
    config.gan.clip_targets = True  # reconstruct what a tanh can reach
    config.gan.small_image = "area"  # how a real image gets its small size: area or nearest
    config.gan.ema_decay = 0.999  # of the moving average of the generator's weights, which images are drawn with
    config.gan.statistics = "recalibrated"  # batch norm where images are drawn: recalibrated or batch
    config.gan.initial_weights = ""  # start from a GAN's run on the same split, such as one of all classes; "": random
    config.gan.frozen_side = 0  # px: the discriminator keeps its layers whose maps are at least this large; 0: none

    config.augment = ml_collections.ConfigDict()
    config.augment.flip = True  # horizontally, at random
    config.augment.rotate = True  # by multiples of 90 degrees, at random
    config.augment.diff_augment = True  # colour and translation of whatever the discriminator sees
    config.augment.cutout = False  # and set a random square of half the side to 0, as in DiffAugment's strongest policy
    config.augment.shared = True  # both sizes of a generated image alike
    config.augment.adaptive_target = 0.0  # steer its probability to this mean sign of real logits (ADA: 0.6); 0: always
    config.augment.images_to_one = 50_000.0  # images in which the probability can go from 0 to 1

    config.model = ml_collections.ConfigDict()
    config.model.width = 1.0  # multiplies all channel counts
    config.model.gate = "gc"  # gc, sle (FastGAN's, without context attention) or none
    config.model.up = "residual"  # residual, compound (FastGAN's, without the skip) or plain
    config.model.context = "context"  # gc gates: attention as the figure draws it (context) or as the code has it (map)
    config.model.tanh = True  # squash generated pixels to (-1, 1)
    config.model.dtype = "float32"  # of the computation; bfloat16 keeps parameters and sums in float32

    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.name = "rmsprop"  # adam, rmsprop or sgd, for both networks
    config.optimizer.learning_rate = 2e-4  # constant, for both networks
    config.optimizer.learning_rate_scaling = "none"  # linear or sqrt: with the global batch size, see learning_rates.py
    config.optimizer.reference_batch_size = 8  # the batch that learning_rate is for; linear and sqrt only

    config.train = ml_collections.ConfigDict()
    config.train.num_train_steps = 40_000  # length of the run in steps
    config.train.global_batch_size = 8  # of all devices together; a multiple of their number
    config.train.steps_per_dispatch = 10  # steps that the devices do per call; all durations are multiples of it
    config.train.sample_every = 2_000  # steps
    config.train.checkpoint_every = 1_000  # steps
    config.train.checkpoint_seconds_apart = 60.0  # at least; the last one is always written
    config.train.keep_checkpoints = 2  # how many are kept
    config.train.tensorboard = True  # write TensorBoard events beside metrics.jsonl
    config.train.report = True  # write report.html at the end

    names = list(filter(None, variant.split(",")))
    for name in names:
        if name == "published":
            config.data.image_size = 1024
            config.gan.perceptual = "lpips_vgg16"
            config.gan.sum_reconstructions = True
            config.gan.clip_targets = False
            config.gan.small_image = "nearest"
            config.gan.statistics = "batch"
            config.augment.rotate = False
            config.augment.shared = False
            config.model.context = "map"
            config.train.num_train_steps = 80_000
            config.train.global_batch_size = 2
        elif name == "fastgan":
            config.model.gate = "sle"
            config.model.up = "compound"
        elif name == "conditional":
            config.gan.conditional = True
        elif name == "small":
            config.data.image_size = 64
            config.model.width = 0.25
            config.train.num_train_steps = 10_000
            config.train.sample_every = 1_000
            config.train.checkpoint_every = 250
        elif name == "test":
            config.data.image_size = 64
            config.data.phantom_scale = 0.05
            config.gan.perceptual = "pixels"
            config.model.width = 1 / 32
            config.train.global_batch_size = 8
            config.train.num_train_steps = 4
            config.train.steps_per_dispatch = 2
            config.train.sample_every = 2
            config.train.checkpoint_every = 2
            config.train.checkpoint_seconds_apart = 0.0
            config.train.tensorboard = False
        else:
            raise ValueError(
                f"configs/gan.py has no variant {name!r}; use published, fastgan, conditional, small or test"
            )
    if "published" in names:
        config.model.tanh = config.data.image_size == 1024  # another size given later needs its own --config.model.tanh
    return config
