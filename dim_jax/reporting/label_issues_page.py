"""Page and table of images whose labels look wrong."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dim_jax.data import csv_files
from dim_jax.evaluation.label_issues import LabelIssues
from dim_jax.evaluation.out_of_fold import OutOfFoldProbabilities
from dim_jax.reporting import pages, thumbnails, wording
from dim_jax.reporting.tables import Table
from dim_jax.runs import files, outputs

CSV, HTML = "label_issues.csv", "label_issues.html"
MARK = '<p class="eyebrow">dim_jax label issues</p>'
MOST_PICTURES, MOST_LINES = 200, 10
PLAUSIBLE = 0.2  # share of wrong labels
WEAK = "so many disagreements are a sign of a weak network rather than of wrong labels; train a better one first"
COLUMNS = ("path", "label", "suggested", "probability of label", "probability of suggested", "group", "models")


def issue_table(pooled: OutOfFoldProbabilities, issues: LabelIssues) -> Table:
    """Table of the images whose labels look wrong, the most doubtful first; `prepare --exclude-list` reads it.

    Args:
      pooled: the predictions.
      issues: what was found in them.
    """
    return Table("label_issues", "labels that look wrong", COLUMNS, list(_rows(pooled, issues)))


def _rows(pooled: OutOfFoldProbabilities, issues: LabelIssues) -> Iterator[tuple[Any, ...]]:
    classes, labels = pooled.manifest.classes, pooled.manifest.labels[pooled.rows]
    for place in issues.places:
        row, share = pooled.manifest.rows[pooled.rows[place]], pooled.probability[place]
        # `prepare` names a converted image by its source file and .png.
        path = row.path.removesuffix(".png") if row.converted else row.path
        own, other = float(share[labels[place]]), float(share[issues.suggested[place]])
        yield path, row.label, classes[issues.suggested[place]], own, other, row.group, int(pooled.num_models[place])


def write(out: str | Path, pooled: OutOfFoldProbabilities, issues: LabelIssues, source: str) -> None:
    """Writes label_issues.csv and label_issues.html.

    Args:
      out: the output folder.
      pooled, issues: as for `issue_table`.
      source: what made the predictions, in words.

    Raises:
      ValueError: `out` has a file of such a name that no earlier call wrote; nothing is written.
    """
    out = Path(out)
    outputs.check(out, is_folder=True)
    text = issue_table(pooled, issues).text
    page = render(pooled, issues, source)
    with files.turn(out):
        own = _own_files(out)
        files.check_replaceable([out / CSV, out / HTML], own)
        # No moment at which the page is of another table than the CSV.
        if out / CSV in own:
            (out / CSV).unlink()
        files.write_text(out / HTML, page)
        files.write_bytes(out / CSV, csv_files.encode(text))


def _own_files(out: Path) -> set[Path]:
    """Returns the page of an earlier call, and its table if nobody edited it: the page has it as a download."""
    try:
        page = (out / HTML).read_text(encoding="utf-8", errors="replace")
        table = base64.b64encode((out / CSV).read_bytes()).decode() if (out / CSV).is_file() else ""
    except OSError:
        return set()
    if MARK not in page:
        return set()
    return {out / HTML, out / CSV} if table and table in page else {out / HTML}


def render(pooled: OutOfFoldProbabilities, issues: LabelIssues, source: str) -> str:
    """HTML page of the images whose labels look wrong, the most doubtful first.

    Args:
      pooled, issues, source: as for `write`.
    """
    manifest = pooled.manifest
    items = []
    for place, (path, label, suggested, own, other, group, _) in zip(
        issues.places[:MOST_PICTURES], _rows(pooled, issues), strict=False
    ):
        pixels = thumbnails.read(manifest.file(int(pooled.rows[place])))
        items.append(
            {
                "uri": None if pixels is None else thumbnails.data_uri(pixels),
                "path": path,
                "label": f"{label} ({wording.number(own, 2)})",
                "suggested": f"{suggested} ({wording.number(other, 2)})",
                "group": group,
            }
        )
    template = pages.environment().get_template("label_issues.html")
    page = template.render(
        items=items,
        num_issues=len(issues.places),
        num_judged=len(pooled.rows),
        num_images=len(manifest),
        source=source,
        warning=WEAK if len(issues.places) > PLAUSIBLE * len(pooled.rows) else "",
        classes=manifest.classes,
        joint=list(zip(manifest.classes, issues.joint.tolist(), strict=True)),
        table=issue_table(pooled, issues),
        scripts=(),
    )
    return page.strip() + "\n"


def summary(pooled: OutOfFoldProbabilities, issues: LabelIssues) -> str:
    """Summary for the screen: how many labels look wrong, and the most doubtful ones."""
    lines = [f"{len(issues.places)} of {len(pooled.rows)} labels look wrong"]
    if len(issues.places) > PLAUSIBLE * len(pooled.rows):
        lines.append(WEAK)
    num_unjudged = len(pooled.manifest) - len(pooled.rows)
    if num_unjudged:
        lines.append(f"{num_unjudged} images are in no test part of these runs and are not judged")
    for path, label, suggested, own, other, *_ in issue_table(pooled, issues).rows[:MOST_LINES]:
        lines.append(f"  {path}: {label} ({own:.2f}) or {suggested} ({other:.2f})?")
    return "\n".join(lines)
