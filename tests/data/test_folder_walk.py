"""Links below a folder: every file has one path, and one that contradicts another is refused."""

import pytest

from dim_jax.data import class_folders
from dim_jax.data.folder_walk import walk


@pytest.fixture
def root(tmp_path):
    for name in ("a/1.png", "a/2.png", "b/3.png", "b/sub/4.png", "c/5.png"):
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "root"


def paths(root):
    return sorted(path.relative_to(root).as_posix() for path in walk(root).files)


FILES = ["a/1.png", "a/2.png", "b/3.png", "b/sub/4.png", "c/5.png"]


@pytest.mark.parametrize("link, target", [
    ("a/0link", "b"), ("a/link", "b/sub"), ("0link", "b"), ("c/link", "a"), ("a/0.png", "b/3.png"),
    ("c/9.png", "a/1.png"),
])  # fmt: skip
def test_a_link_between_classes_is_refused_with_both_paths(root, link, target):
    (root / link).symlink_to(root / target)
    with pytest.raises(ValueError, match=r"(?s)are one file, by a link, and would be in two classes") as caught:
        class_folders.read(root, class_folder=1)
    assert link in str(caught.value) and target in str(caught.value)


@pytest.mark.parametrize("link, target", [("b/link", "b/sub"), ("b/0link", "b/sub"), ("b/link", "."), ("a/link", "a")])
def test_a_link_within_a_class_or_in_a_circle_changes_nothing(root, link, target):
    (root / link).symlink_to(root / target)
    assert paths(root) == FILES
    assert [item.path for item in class_folders.read(root).images] == FILES


def test_links_to_elsewhere_are_followed_and_compared(root, tmp_path):
    (root.parent / "pool").mkdir()
    (root.parent / "pool" / "6.png").write_bytes(b"6")
    (root / "a" / "6.png").symlink_to(root.parent / "pool" / "6.png")
    (root / "d").symlink_to(root.parent / "pool")
    with pytest.raises(ValueError, match=r"a/6.png and d/6.png .* two classes \(a, d\); remove one of them"):
        class_folders.read(root)
    (root / "a" / "6.png").unlink()
    assert {item.path: item.label for item in class_folders.read(root).images}["d/6.png"] == "d"


def test_a_link_between_the_parts_of_a_split_is_refused(tmp_path):
    for part in ("train", "val", "test"):
        for label in ("a", "b"):
            (tmp_path / part / label).mkdir(parents=True)
            (tmp_path / part / label / f"{part}.png").write_bytes(f"{part}{label}".encode())
    (tmp_path / "test" / "a" / "more").symlink_to(tmp_path / "train" / "a")
    with pytest.raises(ValueError, match=r"two parts of the split \(test, train\)"):
        class_folders.read(tmp_path)
