"""Tables of images as spreadsheets and other programs write them."""

from pathlib import Path

from dim_jax.data import manifest as manifests
from odd_inputs.corpus import odd_input, run, write_classes


def table_of(slides: Path, separator: str = ",") -> list[str]:
    """Returns the lines path,label of all images below a folder of class folders."""
    paths = sorted(path.relative_to(slides) for path in slides.rglob("*.png"))
    return [separator.join((path.as_posix(), path.parts[0])) for path in paths]


@odd_input("tables")
def semicolons_with_dos_lines(folder: Path) -> str:
    slides = write_classes(folder / "slides", 6)
    (slides / "manifest.csv").write_bytes("\r\n".join(["path;label", *table_of(slides, ";"), ""]).encode())
    run("prepare", f"--source={slides}", f"--out={folder / 'data'}", "--image-size=32").succeeded()
    manifest = manifests.load(folder / "data")
    assert len(manifest) == 12 and manifest.classes == ("benign", "malignant")
    return "read as 12 images of benign, malignant"
