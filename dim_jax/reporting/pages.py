"""How templates become pages: everything is escaped unless the code says that it is markup."""

from typing import TYPE_CHECKING, Any

from dim_jax.cli.command_line import printable

if TYPE_CHECKING:
    import jinja2


def environment() -> "jinja2.Environment":
    """Returns the environment of all pages: names come from folders and files, so no text is trusted."""
    import jinja2

    def shown(value: Any) -> Any:
        # Markup (figures, macros) is finished; all other text passes here on its way into the page.
        return value if hasattr(value, "__html__") else printable(str(value))

    return jinja2.Environment(
        loader=jinja2.PackageLoader("dim_jax.reporting", "templates"),
        autoescape=True,
        finalize=shown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
