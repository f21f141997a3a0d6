"""Exports a classifier, an ensemble or a GAN to a file that runs without this package."""

import argparse
import sys
from collections.abc import Sequence

from dim_jax.cli import command_line

SUMMARY = """\
Writes a trained run to one file that runs without this package: onnx (ONNX Runtime, also in a browser), stablehlo
(jax.export), or safetensors (weights under the published code's names, LRF-CNN and GCGAN only). A program takes uint8
images in batches of any size, has normalisation, test-time views, adjustment and temperature in it as predict applies
them, and gives probabilities. A GAN's takes normal numbers and gives uint8 images. A file is written only if its
outputs on real images agree with the run's to 1e-4; OUT.json beside it has classes, preprocessing and this check.

packed writes a folder of a few MB that the commands of this package open as a run, for others to use: weights in
float16, classes, preprocessing, scores, calibration, and how to tell images unlike the training images; no images."""
EXAMPLES = """  python -m dim_jax.export runs/a --to=onnx --out=model.onnx
  python -m dim_jax.export runs/a --to=onnx --out=model.onnx --adjust --grad-cam
  python -m dim_jax.export runs/imported --to=stablehlo --out=model.stablehlo --images=images/
  python -m dim_jax.export runs/gan_normal --to=onnx --out=generator.onnx
  python -m dim_jax.export runs/a --to=packed --out=my_model --data-name=EBHI-Seg --licence="CC BY 4.0" """
WEIGHTS, PACKED = "safetensors", "packed"
FORMATS = ("onnx", "stablehlo", WEIGHTS, PACKED)


def main(arguments: Sequence[str]) -> None:
    """Runs the command with its command-line arguments."""
    parser = command_line.parser("export", SUMMARY, EXAMPLES)
    add = parser.add_argument
    add("run", metavar="RUN", type=command_line.path, help="run directory, or directory of an ensemble")
    add("--to", choices=FORMATS, required=True, help="format")
    add("--out", type=command_line.path, required=True, help="file to write; a folder for packed")
    add(
        "--images",
        nargs="+",
        default=[],
        metavar="IMAGES",
        help="folders or files to compare the outputs on (default: validation images of the run's data)",
    )
    add(
        "--views",
        action=argparse.BooleanOptionalAction,
        help="average over the flips and turns that the run was trained on (default: config.augment.test_time_views)",
    )
    add("--adjust", action="store_true", help="adjust the logits for the imbalance of the classes, as in predict")
    add("--calibrate", action="store_true", help="calibrate the probabilities, as in predict")
    add("--grad-cam", action="store_true", help="also give the Grad-CAM map of the predicted class")
    add("--data-name", default="", help="name of the data set, for packed")
    add("--licence", default="", help="licence of the data, for packed")
    options = parser.parse_args(arguments)
    command_line.start_logging()
    if options.to != PACKED and (options.data_name or options.licence):
        raise ValueError(f"--data-name and --licence are for --to={PACKED}; drop them")
    if options.to in (WEIGHTS, PACKED):
        given = [name for name in ("images", "adjust", "calibrate", "grad_cam") if getattr(options, name)]
        given += ["views"] if options.views is not None else []
        if given:
            raise ValueError(
                f"--{given[0].replace('_', '-')} is for programs; --to={options.to} writes weights; drop it"
            )
    if options.to == PACKED:
        from dim_jax.interop.packed_exports import pack_run

        command_line.say(pack_run(options.run, options.out, options.data_name, options.licence))
        return
    if options.to == WEIGHTS:
        from dim_jax.interop.exports import export_run

        command_line.say(export_run(options.run, options.out, WEIGHTS))
        return
    from dim_jax.interop.program_exports import export_program

    command_line.say(
        export_program(
            options.run,
            options.out,
            options.to,
            images=options.images,
            use_views=options.views,
            adjust=options.adjust,
            calibrate=options.calibrate,
            with_map=options.grad_cam,
        )
    )


if __name__ == "__main__":
    sys.exit(command_line.run(main))
