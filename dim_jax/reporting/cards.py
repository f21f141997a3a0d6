"""Cards: Markdown with the front matter of Hugging Face's hub, and the same facts as JSON.

A card is a dict of facts, which `run_cards`, `gan.generated_cards` and `interop.program_cards` make from records; this
module writes it. Nothing in a card is typed by hand, so it may be written again at any time.
"""

import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dim_jax.cli.command_line import printable
from dim_jax.reporting import wording
from dim_jax.runs import files

FORMAT = 1
FILE_NAME = "card.md"
KINDS = ("classifier", "ensemble", "gan", "diffusion", "pool", "selection", "program")
# Characters that begin markup in CommonMark and in GitHub's tables; an underscore does so at the edge of a word only.
MARKUP = re.compile(r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])")
AT_START = re.compile(r"^(#|-(?=[\s-]|$)|\+(?=\s|$)|\d+[.)](?=\s|$))")

log = logging.getLogger(__name__)


def markdown_text(text: str) -> str:
    """Escapes text for Markdown and the HTML in it: it is one line, and no name in it is markup."""
    text = " ".join(printable(text).split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = MARKUP.sub(lambda match: "\\" + match[0], text)
    return AT_START.sub(lambda match: f"{match[1][:-1]}\\{match[1][-1]}", text)


def section(
    facts: Mapping[str, Any] | None = None,
    tables: Mapping[str, list[dict[str, Any]]] | None = None,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Section of a card.

    Args:
      facts: name -> value; those that are None or empty are left out.
      tables: caption -> rows, dicts of column -> value with the same columns; a value may be a score with an interval.
      notes: sentences.
    """
    known = {name: value for name, value in (facts or {}).items() if value is not None and value not in ("", [], {})}
    return {"facts": known, "tables": dict(tables or {}), "notes": list(notes)}


def render(card: Mapping[str, Any]) -> str:
    """Markdown of a card.

    Args:
      card: "kind" (one of KINDS), "name", "summary", "metadata" (the front matter), "sections" (title -> `section`),
        "limits" (sentences), "commands", "versions" and "sha256" (name -> text).

    Returns:
      The text. Equal facts give equal text.
    """
    import jinja2
    import markupsafe
    import yaml

    def escaped(value: Any) -> Any:
        # Macros return markup that is escaped already.
        return value if hasattr(value, "__html__") else markupsafe.Markup(markdown_text(str(value)))

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dim_jax.reporting", "templates"),
        autoescape=True,
        finalize=escaped,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"label": lambda name: wording.LABELS.get(name, name), "text": value_text}
    front_matter = yaml.safe_dump(_plain(card["metadata"]), sort_keys=False, allow_unicode=True, width=1000)
    commands = [markupsafe.Markup(printable(command)) for command in card["commands"]]
    text = environment.get_template("card.md").render(
        card={**card, "commands": commands}, front_matter=markupsafe.Markup(front_matter)
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def write(path: Path, card: Mapping[str, Any]) -> bool:
    """Writes the Markdown of a card to `path` and its facts to the JSON beside it.

    A file that no earlier call wrote is kept, with a warning.

    Args:
      path: file that ends in .md.
      card: as for `render`.

    Returns:
      Whether the card was written.
    """
    record_path = path.with_suffix(".json")
    text = render(card)
    with files.turn(record_path):
        for other in (path, record_path):
            if other.exists() and not is_card(record_path):
                log.warning("%s is not a card of dim_jax, so the card is not written; move it away", other)
                return False
        # The JSON first: it identifies the card as ours if this call is interrupted.
        files.write_json(record_path, {"format": FORMAT, **card})
        files.write_text(path, text)
    return True


def is_card(path: Path) -> bool:
    """Whether a JSON file holds the facts of a card."""
    try:
        record = files.read_object(path)
    except (OSError, ValueError):
        return False
    return record.get("kind") in KINDS and "metadata" in record and "limits" in record


def own_files(path: Path) -> set[Path]:
    """Those of a card and its JSON that may be replaced."""
    record_path = path.with_suffix(".json")
    return {path, record_path} if is_card(record_path) else set()


def value_text(value: Any) -> str:
    """Text of a value in a table: floats with three decimals, a dash for what is unknown, and scores with intervals.

    Args:
      value: text, a number, a list, None, or a dict: a score of "value", "low" and "high", or names and values.
    """
    if isinstance(value, dict) and "value" in value:
        bounds = [wording.number(value.get(name)) for name in ("low", "high")]
        text = wording.number(value["value"])
        return text if wording.MISSING in bounds else f"{text} ({bounds[0]} to {bounds[1]})"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {value_text(item)}" for name, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(value_text, value))
    return value if isinstance(value, str) else str(value) if isinstance(value, bool) else wording.number(value)


def metadata(kind: str, name: str, licence: Mapping[str, str], tags: list[str], **more: Any) -> dict[str, Any]:
    """Front matter of a card: Hugging Face's fields for models, or for data sets of kind "pool" and "selection".

    Args:
      kind: one of KINDS.
      name: title.
      licence: what is recorded on the licence of the training data; empty for nothing.
      tags: more tags.
      more: more fields, in order; those that are None are left out.
    """
    # What is trained on images has no licence of its own in the records; the hub's word for that is "unknown".
    fields = {"license": "other", "license_name": licence["text"]} if licence else {"license": "unknown"}
    is_dataset = kind in ("pool", "selection")
    titled = {"pretty_name": name} if is_dataset else {"library_name": "dim_jax", "model_name": name}
    all_tags = list(dict.fromkeys(["dim_jax", "histology", "jax", "not-for-clinical-use", *tags]))
    return {**titled, **fields, "tags": all_tags, **{key: value for key, value in more.items() if value is not None}}


def _plain(value: Any) -> Any:
    """Nested dicts, lists and scalars with printable text, which YAML can represent."""
    value = files.to_json(value)
    if isinstance(value, dict):
        return {printable(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return printable(value) if isinstance(value, str) else value


def sha256_of(folder: Path, names: list[str]) -> dict[str, str]:
    """SHA-256 of those of some files in a folder that exist, by name."""
    digests = {}
    for name in names:
        if (folder / name).is_file():
            with (folder / name).open("rb") as file:
                digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests
