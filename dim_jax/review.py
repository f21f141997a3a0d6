"""Blind review: an offline page on which pathologists tell real from generated images, and the scores of their answers.

--pool writes OUT, a page that works without a network and gives nothing away, and OUT's name with _key.json, which says
which images are real: give the readers the page alone. As many real images as generated ones are shown for each class,
of validation cases first, then of training cases, never of test cases. --score reads the files that the readers saved.
"""

import sys
from collections.abc import Sequence

from dim_jax.cli import command_line

EXAMPLES = """  python -m dim_jax.review --pool=pool --data=DATA --out=review.html
  python -m dim_jax.review --pool=selected/selected.json --data=DATA --out=review.html --num=10
  python -m dim_jax.review --score='answers/*.json' --key=review_key.json
  python -m dim_jax.select --pool=pool --data=DATA --classifier=runs/a --out=selected --reviews=review_score.json"""
QUESTION, SCORES = ("pool", "data", "num", "seed"), ("score", "key")


def main(arguments: Sequence[str]) -> None:
    """Runs the command with its command-line arguments."""
    parser = command_line.parser("review", __doc__, EXAMPLES)
    add = parser.add_argument
    add("--pool", type=command_line.path, help="pool written by generate, or a list such as selected.json")
    add("--data", type=command_line.path, help="prepared data that the GAN was trained on")
    add("--num", type=int, help="largest number of generated images of each class (default: 20)")
    add("--seed", type=int, help="seed of the choice and the order of the images (default: 0)")
    add(
        "--score",
        nargs="+",
        metavar="JSON",
        type=command_line.path,
        help="answers of the readers, one file each; patterns such as 'answers/*.json' too",
    )
    add("--key", type=command_line.path, help="key of the review, which was written beside its page")
    add(
        "--out",
        type=command_line.path,
        help="page to write; with --score the page of scores (default: REVIEW_score.html beside the key)",
    )
    options = parser.parse_args(arguments)
    is_scored = options.score is not None
    _check(
        vars(options),
        required=("score", "key") if is_scored else ("pool", "data", "out"),
        other=QUESTION if is_scored else SCORES,
    )
    command_line.start_logging()
    from dim_jax.gan import generated_cards, review_files, review_scores

    if is_scored:
        scores, path = review_files.write_scores(options.key, options.score, options.out or "")
        card_paths = generated_cards.record_review(options.key, scores)
        for warning in review_scores.warnings(scores):
            command_line.say(f"warning: {warning}", file=sys.stderr)
        command_line.say(review_scores.summary(scores))
        command_line.say(f"scores: {path.with_suffix('.html')}, {path}")
        if card_paths:
            command_line.say(f"recorded in the cards of its pools: {', '.join(map(str, card_paths))}")
        return
    settings = {name: value for name in ("num", "seed") if (value := getattr(options, name)) is not None}
    review, key = review_files.write_review(options.pool, options.data, options.out, **settings)
    for note in review.notes:
        command_line.say(f"note: {note}")
    command_line.say(f"{len(review.key.images)} images, half of them real, in {options.out}")
    command_line.say(f"give readers this page alone; which images are real is in {key}")
    command_line.say_next("review", "--score", "ANSWERS.json", f"--key={key}")


def _check(options: dict, required: Sequence[str], other: Sequence[str]) -> None:
    """Raises ValueError if an option is missing, or is one of the other use of the command."""
    missing = [name for name in required if not options[name]]
    if missing:
        raise ValueError(
            f"--{missing[0]} is missing; a page needs --pool, --data and --out, and scores need --score and --key"
        )
    superfluous = [name for name in other if options[name] is not None]
    if superfluous:
        raise ValueError(f"--{superfluous[0]} can't be given with --{required[0]}; drop one of them")


if __name__ == "__main__":
    sys.exit(command_line.run(main))
