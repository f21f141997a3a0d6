"""Jinja environment of the report pages, with autoescaping."""

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
