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
outputs on real images agree with the run's to 1e-4; OUT.json beside it has classes, preprocessing and this check."""
EXAMPLES = """  python -m dim_jax.export runs/a --to=onnx --out=model.onnx
  python -m dim_jax.export runs/a --to=onnx --out=model.onnx --adjust --grad-cam
  python -m dim_jax.export runs/imported --to=stablehlo --out=model.stablehlo --images=images/
  python -m dim_jax.export runs/gan_normal --to=onnx --out=generator.onnx"""
WEIGHTS = "safetensors"
FORMATS = ("onnx", "stablehlo", WEIGHTS)


def main(arguments: Sequence[str]) -> None:
    """Runs the command with its command-line arguments."""
    parser = command_line.parser("export", SUMMARY, EXAMPLES)
    add = parser.add_argument
    add("run", metavar="RUN", type=command_line.path, help="run directory, or directory of an ensemble")
    add("--to", choices=FORMATS, required=True, help="format")
    add("--out", type=command_line.path, required=True, help="file to write")
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
    options = parser.parse_args(arguments)
    command_line.start_logging()
    if options.to == WEIGHTS:
        given = [name for name in ("images", "adjust", "calibrate", "grad_cam") if getattr(options, name)]
        given += ["views"] if options.views is not None else []
        if given:
            raise ValueError(f"--{given[0].replace('_', '-')} is for programs; --to={WEIGHTS} writes the weights alone")
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
