"""Writer of .pth files opcode by opcode, as torch.save does, without PyTorch; also for malicious files."""

import io
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np

STORAGES = {
    "float32": "FloatStorage", "float64": "DoubleStorage", "float16": "HalfStorage", "bfloat16": "BFloat16Storage",
    "int64": "LongStorage", "int32": "IntStorage", "int16": "ShortStorage", "int8": "CharStorage",
    "uint8": "ByteStorage", "bool": "BoolStorage", "complex64": "ComplexFloatStorage",
    "complex128": "ComplexDoubleStorage",
}  # fmt: skip


def plain(value) -> bytes:
    """The opcodes of a number, a string, or a container of them."""
    return pickle.dumps(value, 2)[2:-1]


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def call(module: str, attribute: str, *arguments: bytes) -> bytes:
    return name(module, attribute) + b"(" + b"".join(arguments) + b"tR"


def sequence(*items: bytes) -> bytes:
    return b"](" + b"".join(items) + b"e"


def dictionary(items: dict[str, bytes]) -> bytes:
    return b"}(" + b"".join(plain(key) + value for key, value in items.items()) + b"u"


def state_dict(items: dict[str, bytes]) -> bytes:
    """An OrderedDict with the attribute that torch.nn.Module adds."""
    pairs = b"(" + b"".join(plain(key) + value for key, value in items.items()) + b"u"
    return call("collections", "OrderedDict") + pairs + dictionary({"_metadata": dictionary({})}) + b"b"


def storage(kind: str, key: str, count: int) -> bytes:
    return b"(" + plain("storage") + name("torch", kind) + plain(key) + plain("cpu") + plain(count) + b"tQ"


def view(stored: bytes, offset: int, size: tuple, stride: tuple) -> bytes:
    hooks = call("collections", "OrderedDict")
    return call(
        "torch._utils", "_rebuild_tensor_v2", stored, plain(offset), plain(size), plain(stride), plain(False), hooks
    )


class File:
    """Storages of a .pth, and its two formats."""

    def __init__(self):
        self.storages = {}

    def add_storage(self, array: np.ndarray) -> bytes:
        """Adds a storage with an array's values in C order; returns its opcodes."""
        key = str(len(self.storages))
        self.storages[key] = (array.size, array.tobytes())
        kind = STORAGES[array.dtype.name]
        return storage(kind, key, array.size)

    def tensor(self, array: np.ndarray) -> bytes:
        array = np.asarray(array)
        stride = tuple(step // array.itemsize for step in np.empty(array.shape, array.dtype).strides)
        return view(self.add_storage(array), 0, array.shape, stride)

    def write(self, path: Path, opcodes: bytes, layout: str) -> Path:
        path.write_bytes((self.zipped if layout == "zip" else self.legacy)(b"\x80\x02" + opcodes + b"."))
        return path

    def zipped(self, opcodes: bytes) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("model/data.pkl", opcodes)
            archive.writestr("model/byteorder", b"little")
            for key, (_, values) in self.storages.items():
                archive.writestr(f"model/data/{key}", values)
            archive.writestr("model/version", b"3\n")
        return buffer.getvalue()

    def legacy(self, opcodes: bytes) -> bytes:
        machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
        # The persistent id of a storage has one more element in the legacy format: a view, which is unused.
        opcodes = opcodes.replace(b"tQ", b"NtQ")
        start = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, machine)]
        keys = pickle.dumps(sorted(self.storages), 2)
        values = [struct.pack("<q", count) + values for _, (count, values) in sorted(self.storages.items())]
        return b"".join([*start, opcodes, keys, *values])


def write_state_dict(path: Path, tensors: dict[str, np.ndarray], layout: str = "zip") -> Path:
    """Writes arrays in PyTorch's layout as torch.save(model.state_dict(), path) would."""
    file = File()
    return file.write(path, state_dict({key: file.tensor(array) for key, array in tensors.items()}), layout)
