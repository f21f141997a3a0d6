"""Hook of mkdocs.yml: pages and files of the site that are in the checkout outside of docs/."""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "CITATION.cff": "CITATION.cff",
}
NOTEBOOKS = "notebooks"


def on_files(files: Files, *, config: Any) -> Files:
    """Adds the pages, with links into docs/ and to one another as they are on the site, and the notebooks."""
    root = Path(config.config_file_path).parent
    for source, page in PAGES.items():
        text = (root / source).read_text(encoding="utf-8").replace("](docs/", "](")
        for other, other_page in PAGES.items():
            text = text.replace(f"]({other}", f"]({other_page}")
        files.append(File.generated(config, page, content=text))
    for path in sorted((root / NOTEBOOKS).glob("*.ipynb")):
        files.append(File.generated(config, f"{NOTEBOOKS}/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Returns the text of a page with links to notebooks as they are on the site."""
    return markdown.replace(f"](../{NOTEBOOKS}/", f"]({NOTEBOOKS}/")
