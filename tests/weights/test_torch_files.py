"""The safe .pth reader: values of every dtype, no code execution, no allocation beyond the file."""

import io
import pickle
import struct
import sys
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch_pickles import (
    STORAGES,
    File,
    call,
    dictionary,
    name,
    plain,
    sequence,
    state_dict,
    storage,
    view,
    write_state_dict,
)

from dim_jax.weights import torch_files

LAYOUTS = pytest.mark.parametrize("layout", ["zip", "legacy"])
MEGABYTE = 2**20


def values(dtype: str) -> np.ndarray:
    dtype = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    return np.arange(6).reshape(2, 3).astype(dtype)


def refusal(path, read=torch_files.read) -> str:
    """The error message of a refused file; reading it must allocate little memory."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError) as raised:
            read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    message = str(raised.value)
    assert str(path) in message and "\n" not in message and len(message) < 500
    assert peak < 4 * MEGABYTE
    return message


@LAYOUTS
@pytest.mark.parametrize("dtype", STORAGES)
def test_tensors_of_every_dtype_are_read(tmp_path, layout, dtype):
    path = write_state_dict(tmp_path / "w.pth", {"a.weight": values(dtype), "b": values(dtype)[1, 1]}, layout)
    read = torch_files.read_state_dict(path)
    assert list(read) == ["a.weight", "b"] and type(read) is dict
    np.testing.assert_array_equal(read["a.weight"], values(dtype))
    assert read["a.weight"].dtype == values(dtype).dtype and read["b"].shape == ()
    assert not read["a.weight"].flags.writeable


@LAYOUTS
def test_views_of_one_storage_keep_their_offsets_and_strides(tmp_path, layout):
    file = File()
    stored = file.add_storage(np.arange(12, dtype=np.float32))
    opcodes = dictionary(
        {
            "transposed": view(stored, 0, (4, 3), (1, 4)),
            "inner": view(stored, 5, (2, 2), (4, 1)),
            "scalar": view(stored, 11, (), ()),
            "empty": view(stored, 12, (0, 7), (7, 1)),
        }
    )
    read = torch_files.read_state_dict(file.write(tmp_path / "w.pth", opcodes, layout))
    whole = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(read["transposed"], whole.T)
    np.testing.assert_array_equal(read["inner"], whole[1:, 1:3])
    assert read["scalar"] == 11 and read["empty"].shape == (0, 7)


@LAYOUTS
def test_a_training_checkpoint_is_read_with_its_nesting(tmp_path, layout):
    file = File()
    weight = np.ones((2, 2), np.float32)
    parameter = call("torch._utils", "_rebuild_parameter", file.tensor(weight), plain(True), plain(None))
    opcodes = dictionary(
        {
            "step": plain(7),
            "models": sequence(state_dict({"w": file.tensor(weight)}), plain([])),
            "parameter": parameter,
            "size": call("torch", "Size", plain((2, 2))),
            "dtype": name("torch", "float32"),
            "device": call("torch", "device", plain("cuda"), plain(0)),
            "bytes": call("_codecs", "encode", plain("a\xff"), plain("latin1")),
            "set": call("__builtin__", "set", plain([1, 2])),
        }
    )
    read = torch_files.read(file.write(tmp_path / "checkpoint.pt", opcodes, layout))
    assert [read[key] for key in ("step", "size", "dtype", "device", "bytes", "set")] == [
        7, (2, 2), "float32", ("cuda", 0), b"a\xff", {1, 2},
    ]  # fmt: skip
    np.testing.assert_array_equal(read["models"][0]["w"], weight)
    np.testing.assert_array_equal(read["parameter"], weight)
    message = refusal(tmp_path / "checkpoint.pt", torch_files.read_state_dict)
    assert "step, models" in message and "state_dict()" in message


def test_files_of_the_first_versions_of_pytorch_are_read(tmp_path):
    file = File()
    first = np.arange(6, dtype=np.float32).reshape(2, 3)
    stored = file.add_storage(first).replace(name("torch", "FloatStorage"), name("torch.cuda", "FloatStorage"))
    tensor = call("torch._utils", "_rebuild_tensor", stored, plain(0), plain((2, 3)), plain((3, 1)))
    state = b"(" + tensor + plain(None) + plain({}) + plain(True) + plain(False) + b"t"
    parameter = name("torch.nn.parameter", "Parameter") + b")\x81" + state + b"b"
    pairs = sequence(b"(" + plain("w") + tensor + b"t", b"(" + plain("p") + parameter + b"t")
    path = file.write(tmp_path / "old.pth", call("collections", "OrderedDict", pairs), "legacy")
    read = torch_files.read_state_dict(path)
    np.testing.assert_array_equal(read["w"], first)
    np.testing.assert_array_equal(read["p"], first)


GADGETS = [
    ("os", "system"), ("posix", "system"), ("builtins", "eval"), ("builtins", "exec"), ("__builtin__", "eval"),
    ("builtins", "getattr"), ("builtins", "__import__"), ("subprocess", "Popen"), ("pathlib", "Path.touch"),
    ("torch", "load"), ("torch._utils", "_rebuild_qtensor"), ("numpy", "load"), ("collections", "defaultdict"),
    ("dim_jax.weights.torch_files", "_Dict"),
]  # fmt: skip


@LAYOUTS
@pytest.mark.parametrize(("module", "attribute"), GADGETS)
def test_no_callable_that_a_file_names_is_run(tmp_path, layout, module, attribute):
    mark = tmp_path / "it-ran"
    harmful = {"system": f"touch {mark}", "eval": f"open({str(mark)!r}, 'w')", "exec": f"open({str(mark)!r}, 'w')"}
    argument = plain(harmful.get(attribute, str(mark)))
    file = File()
    opcodes = dictionary({"w": file.tensor(np.ones(3, np.float32)), "x": call(module, attribute, argument)})
    message = refusal(file.write(tmp_path / "w.pth", opcodes, layout))
    assert f"{module}.{attribute}" in message and "nothing was run" in message
    assert not mark.exists()


class _CreatesFile:
    """Unpickled by pickle.loads, it creates a file."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), "w")


@LAYOUTS
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_reduce_of_any_pickle_protocol_is_not_run(tmp_path, layout, protocol):
    mark = tmp_path / "it-ran"
    path = File().write(tmp_path / "w.pth", pickle.dumps({"x": _CreatesFile(mark)}, protocol)[2:-1], layout)
    assert "io.open" in refusal(path)
    assert not mark.exists()
    pickle.loads(pickle.dumps(_CreatesFile(mark)))
    assert mark.exists()  # pickle.loads does run it


def _forged_sizes() -> dict[str, tuple[File, bytes]]:
    ten_gigabytes = 2_500_000_000
    cases = {}

    def case(title: str, make) -> None:
        file = File()
        cases[title] = (file, make(file, file.add_storage(np.ones(4, np.float32))))

    case("a storage of 10 GB", lambda _, stored: view(storage("FloatStorage", "0", ten_gigabytes), 0, (4,), (1,)))
    case("an absent storage", lambda _, stored: view(storage("FloatStorage", "7", 4), 0, (4,), (1,)))
    case("a negative storage", lambda _, stored: view(storage("FloatStorage", "0", -1), 0, (4,), (1,)))
    case("a tensor of 10 GB", lambda _, stored: view(stored, 0, (ten_gigabytes,), (1,)))
    case("10 GB by repetition", lambda _, stored: view(stored, 0, (ten_gigabytes,), (0,)))
    case("a tensor beyond its storage", lambda _, stored: view(stored, 1, (4,), (1,)))
    case("strides beyond the storage", lambda _, stored: view(stored, 0, (2, 2), (3, 1)))
    case("a negative offset", lambda _, stored: view(stored, -1, (2,), (1,)))
    case("a negative stride", lambda _, stored: view(stored, 3, (4,), (-1,)))
    case("a product that overflows", lambda _, stored: view(stored, 0, (2**40, 2**40), (1, 1)))
    case("too many axes", lambda _, stored: view(stored, 0, (1,) * 100, (1,) * 100))
    case("a view for a storage", lambda _, stored: view(view(stored, 3, (4,), (0,)), 0, (4,), (1,)))
    case("an index of a billion", lambda _, stored: plain(1) + b"r" + struct.pack("<I", 10**9))
    case("bytes of ten gigabytes", lambda _, stored: b"\x8e" + struct.pack("<Q", 10**10))
    text = plain("x" * 1000) + b"q\x7f0"
    copies = [call("_codecs", "encode", b"h\x7f", plain("latin1"))] * 1000
    case("a thousand copies", lambda _, stored: text + sequence(*copies * 20))
    return cases


FORGED_SIZES = _forged_sizes()


@LAYOUTS
@pytest.mark.parametrize("title", FORGED_SIZES)
def test_a_size_beyond_that_of_the_file_allocates_no_memory(tmp_path, layout, title):
    file, opcodes = FORGED_SIZES[title]
    message = refusal(file.write(tmp_path / "w.pth", opcodes, layout))
    if any(part in title for part in ("10 GB", "beyond", "overflows")):
        assert "claims" in message


def test_a_legacy_storage_of_a_negative_size_is_refused(tmp_path):
    file = File()
    opcodes = dictionary({"w": file.tensor(np.ones(4, np.float32))})
    file.storages["0"] = (-1, file.storages["0"][1])
    refusal(file.write(tmp_path / "w.pth", opcodes, "legacy"))


def test_a_zip_entry_with_a_size_beyond_the_file_allocates_no_memory(tmp_path):
    path = write_state_dict(tmp_path / "w.pth", {"w": np.ones(4, np.float32)})
    path.write_bytes(path.read_bytes().replace(struct.pack("<II", 16, 16), struct.pack("<II", 2**31, 2**31)))
    assert "overlapping" in refusal(path)


def test_a_compressed_archive_is_refused_before_decompression(tmp_path):
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data.pkl", bytes(64 * MEGABYTE))
    assert "compressed" in refusal(path)


@pytest.mark.parametrize(
    ("encoded", "words"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><title>404</title>", "a web page"),
        (b"\n <html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1", "version https://"),
        (pickle.dumps([1, 2]), "not one that torch.save wrote"),
        (b"PK\x03\x04 and no more", "damaged"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path, encoded, words):
    path = tmp_path / "w.pth"
    path.write_bytes(encoded)
    assert words in refusal(path)


def test_another_archive_a_list_and_a_missing_file_are_refused_in_one_line(tmp_path):
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("photos/cat.txt", b"meow")
    assert "torch.save" in refusal(path)
    File().write(path, plain([1]), "zip")
    assert "a list and no state dict" in refusal(path, torch_files.read_state_dict)
    with pytest.raises(FileNotFoundError, match=r"none\.pth: no such file"):
        torch_files.read(tmp_path / "none.pth")


def _bytes(layout: str) -> bytes:
    file = File()
    opcodes = b"\x80\x02" + state_dict({"w": file.tensor(values("float32")), "n": file.tensor(values("int64"))}) + b"."
    return (file.zipped if layout == "zip" else file.legacy)(opcodes)


@LAYOUTS
def test_a_file_truncated_anywhere_is_refused(tmp_path, layout):
    whole = _bytes(layout)
    path = tmp_path / "w.pth"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        refusal(path)


@LAYOUTS
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused_in_one_line(tmp_path, layout, data):
    whole = bytearray(_bytes(layout))
    positions = data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=4))
    for position in positions:
        whole[position] = data.draw(st.integers(0, 255))
    path = tmp_path / "w.pth"
    path.write_bytes(bytes(whole))
    try:
        torch_files.read(path)
    except ValueError as error:
        assert str(path) in str(error)


@pytest.mark.torch
@LAYOUTS
def test_files_of_pytorch_are_read_as_pytorch_reads_them(tmp_path, layout):
    # PyTorch's optimizers import Triton, which crashes the process if TensorFlow was imported before.
    sys.modules.setdefault("triton", None)
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    checkpoint = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "parameters": list(model.parameters()),
        "views": [torch.arange(12).reshape(3, 4).T, torch.arange(12.0)[3:7:2], torch.ones(3).bfloat16()],
        "random": torch.get_rng_state(),
    }
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer, _use_new_zipfile_serialization=layout == "zip")
    path = tmp_path / "checkpoint.pth"
    path.write_bytes(buffer.getvalue())
    read = torch_files.read(path)

    def compare(ours, theirs):
        if isinstance(theirs, torch.Tensor):
            assert str(theirs.dtype) == f"torch.{ours.dtype.name}"
            np.testing.assert_array_equal(ours.astype(np.float64), theirs.detach().double().numpy())
        elif isinstance(theirs, dict):
            assert list(ours) == list(theirs)
            for key in theirs:
                compare(ours[key], theirs[key])
        elif isinstance(theirs, list | tuple):
            assert len(ours) == len(theirs)
            for one, other in zip(ours, theirs, strict=True):
                compare(one, other)
        else:
            assert ours == theirs

    compare(read, checkpoint)
