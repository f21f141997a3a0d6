"""Places of outputs where nothing can be written: each command says so before it works."""

from pathlib import Path

from odd_inputs.corpus import odd_input, run, snapshot, write_classes

COMMANDS = {  # command -> arguments, and whether it writes a folder
    "prepare": (["--source={folder}/slides"], True),
    "predict": (["--workdir={folder}/run", "{folder}/slides"], True),
    "ensemble": (["{folder}/run", "{folder}/other"], True),
    "generate": (["--workdir={folder}/run"], True),
    "select": (["--pool={folder}/pool", "--data={folder}/data", "--classifier={folder}/run"], True),
    "review": (["--pool={folder}/pool", "--data={folder}/data"], False),
    "export": (["{folder}/run", "--to=stablehlo"], False),
    "interop.convert": (["{folder}/weights.pth"], True),
}


def output(command: str) -> None:
    """Adds outputs of a command that must be refused: the root, in a file, in /proc, a file for a folder or so."""

    @odd_input("outputs", f"outputs_of_{command.rpartition('.')[2]}")
    def check(folder: Path) -> str:
        arguments, is_folder = COMMANDS[command]
        write_classes(folder / "slides", 3)
        (folder / "file.txt").write_text("mine")
        before = snapshot(folder)
        name = "out" if is_folder else "out.html"
        places = {
            "/": "--out=/ ",
            f"{folder}/file.txt/{name}": "is inside",
            f"/proc/{name}": "no file can be created there",
            str(folder / "file.txt" if is_folder else folder / "slides"): "is a file" if is_folder else "is a folder",
        }
        for place, words in places.items():
            outcome = run(command, *[item.format(folder=folder) for item in arguments], f"--out={place}").refused(words)
        assert snapshot(folder) == before
        return outcome


for name in COMMANDS:
    output(name)


@odd_input("outputs")
def run_directory_that_is_the_root(folder: Path) -> str:
    write_classes(folder / "slides", 3)
    run("train", "--config=classifier:test", f"--config.data.path={folder / 'slides'}", "--workdir=/proc/run").refused(
        "no file can be created there"
    )
    arguments = ("--config=classifier:test", f"--config.data.path={folder / 'slides'}", "--workdir=/")
    return run("train", *arguments).refused("--workdir=/ is the root of the file system")
