"""Jinja environment of the report pages, with autoescaping, and the scripts and data of a page."""

import base64
import hashlib
import json
from importlib import resources
from typing import TYPE_CHECKING, Any

from dim_jax.cli.command_line import printable

if TYPE_CHECKING:
    import jinja2


def environment() -> "jinja2.Environment":
    """Environment of all pages; names come from folders and files, so all text is escaped and made printable."""
    import jinja2

    def printable_text(value: Any) -> Any:
        # Markup (figures, macros) is escaped already; all other values pass through here.
        return value if hasattr(value, "__html__") else printable(str(value))

    return jinja2.Environment(
        loader=jinja2.PackageLoader("dim_jax.reporting", "templates"),
        autoescape=True,
        finalize=printable_text,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def script(text: str) -> dict[str, Any]:
    """Script of a page for base.html: its text, and its digest in the content security policy."""
    import markupsafe

    digest = base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
    return {"text": markupsafe.Markup(text), "digest": digest}


def script_file(name: str) -> dict[str, Any]:
    """Script of a page, see `script`, from the folder of templates."""
    return script(resources.files("dim_jax.reporting").joinpath("templates", name).read_text(encoding="utf-8"))


def script_safe(value: Any) -> Any:
    """Encodes JSON as markup for a script element, escaped so that no text can end the element or begin a comment."""
    import markupsafe

    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return markupsafe.Markup(text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026"))
