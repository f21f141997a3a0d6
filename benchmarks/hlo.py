"""Kernels, copies, loops and collectives of a compiled program, read from the text of its optimized HLO."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

ITEM_BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2, "s32": 4, "u32": 4, "f32": 4,
              "s64": 8, "u64": 8, "f64": 8}  # fmt: skip
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
# Operations without work on the device.
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id",
        "add-dependency", "opt-barrier"}  # fmt: skip
FREE_CALLS = {"AllocateBuffer", "PinnedBuffer", "AssumeGatherIndicesInBound"}
PREFETCHES = {"copy-start", "slice-start"}  # asynchronous, into on-chip memory
SLICES = {"slice", "dynamic-slice", "gather"}

_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.-]+) = ")
_CALLEES = re.compile(r"\b(?:calls|body|to_apply|true_computation|false_computation)=%?([\w.-]+)")
_LISTED_CALLEES = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")


@dataclass(frozen=True)
class Instruction:
    """An instruction: its name, the text of its result's shape, its operation, its operands and its attributes."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str

    @property
    def op_name(self) -> str:
        """Name of the traced operation that it comes from, with its scopes."""
        match = re.search(r'op_name="([^"]*)"', self.attributes)
        return match[1] if match else ""

    @property
    def target(self) -> str:
        """The library function that a custom call calls."""
        match = re.search(r'custom_call_target="([^"]*)"', self.attributes)
        return match[1] if match else ""

    @property
    def trips(self) -> int:
        """Iterations of a loop; 1 if the compiler does not know them."""
        match = re.search(r'"?known_trip_count"?:\{"?n"?:"?(\d+)', self.attributes)
        return int(match[1]) if match else 1

    @property
    def callees(self) -> list[str]:
        """Names of the computations that it executes; those of a reduction's or a sort's elements are left out."""
        if self.opcode in ("fusion", "while", "call", "conditional", "async-start", "custom-call"):
            listed = [name for names in _LISTED_CALLEES.findall(self.attributes) for name in re.split(r",\s*", names)]
            return _CALLEES.findall(self.attributes) + [name.lstrip("%") for name in listed if name]
        return []


Computation = dict[str, Instruction]


@dataclass(frozen=True)
class Kernel:
    """What the device executes for an instruction each time.

    Attributes:
      kind: "fusion", "library call", "copy" or "other".
      op_name: see Instruction.
      times: executions, the product of the trip counts of the loops around it.
      flops: multiplications and additions of its matrix products and convolutions; others are not counted.
      dtype: HLO dtype of the factors of these products, "" without products.
      num_bytes: bytes of operands and results. Of an operand of which a fusion reads slices alone, those count.
    """

    kind: str
    op_name: str
    times: int
    flops: float
    dtype: str
    num_bytes: int


@dataclass(frozen=True)
class Collective:
    """A collective: kind, bytes of its operands on a device, and collectives in a row that it waits for."""

    kind: str
    num_bytes: int
    depth: int


@dataclass
class Program:
    """A compiled program.

    Attributes:
      computations: computations by name, each a dict of its instructions by name, in order.
      entry: name of the computation that is executed.
    """

    computations: dict[str, Computation] = field(default_factory=dict)
    entry: str = ""

    def executed(self, name: str | None = None, times: int = 1) -> Iterator[tuple[Instruction, Computation, int]]:
        """Yields (instruction, its computation, executions) outside of fusions. All branches of conditionals count."""
        computation = self.computations[self.entry if name is None else name]
        for instruction in computation.values():
            yield instruction, computation, times
            if instruction.opcode != "fusion":
                for callee in instruction.callees:
                    yield from self.executed(callee, times * instruction.trips)

    def kernels(self) -> list[Kernel]:
        """Returns what is launched: fusions, library calls, synchronous copies and whatever else takes time."""
        results = []
        for instruction, computation, times in self.executed():
            kind = _kind(instruction)
            if kind:
                flops, dtype = self._products(instruction, computation)
                num_bytes = size(instruction.shape) + sum(self._read(instruction, computation))
                results.append(Kernel(kind, instruction.op_name, times, flops, dtype, num_bytes))
        return results

    def loops(self) -> int:
        """Returns the number of loops."""
        return sum(instruction.opcode == "while" for instruction, _, _ in self.executed())

    def prefetches(self) -> int:
        """Returns the number of asynchronous copies into on-chip memory."""
        return sum(times for instruction, _, times in self.executed() if instruction.opcode in PREFETCHES)

    def collectives(self) -> list[Collective]:
        """Returns the collectives; those of loops once for each iteration."""
        return self._chain(self.entry)[0]

    def _chain(self, name: str) -> tuple[list[Collective], int]:
        """Returns the collectives of a computation and how many of them are in a row."""
        results: list[Collective] = []
        depths: dict[str, int] = {}
        computation = self.computations[name]
        for instruction in computation.values():
            depth = max((depths.get(operand, 0) for operand in instruction.operands), default=0)
            kind = instruction.opcode.removesuffix("-start")
            if kind in COLLECTIVES:
                num_bytes = sum(size(computation[operand].shape) for operand in instruction.operands)
                results.append(Collective(kind, num_bytes, depth))
                depth += 1
            longest = 0
            for callee in instruction.callees:
                inner, length = self._chain(callee)
                for trip in range(instruction.trips if inner else 0):
                    results += [Collective(c.kind, c.num_bytes, depth + trip * length + c.depth) for c in inner]
                longest = max(longest, length * instruction.trips)
            depths[instruction.name] = depth + longest
        return results, max(depths.values(), default=0)

    def _read(self, instruction: Instruction, computation: Computation) -> Iterator[int]:
        """Yields the bytes that an instruction reads of each operand."""
        fused = self.computations[instruction.callees[0]] if instruction.opcode == "fusion" else {}
        parameters = {_parameter_number(inner): inner.name for inner in fused.values() if inner.opcode == "parameter"}
        for number, operand in enumerate(instruction.operands):
            num_bytes = size(computation[operand].shape) if operand in computation else 0
            name = parameters.get(number)
            users = [inner for inner in fused.values() if name in inner.operands]
            if users and all(user.opcode in SLICES and user.operands[0] == name for user in users):
                num_bytes = min(num_bytes, sum(size(user.shape) for user in users))
            yield num_bytes

    def _products(self, instruction: Instruction, computation: Computation) -> tuple[float, str]:
        """Returns the operations of the products in an instruction, and the dtype of their factors."""
        if instruction.opcode == "fusion":
            inner = self.computations[instruction.callees[0]]
            parts = [self._products(part, inner) for part in inner.values()]
            return sum(flops for flops, _ in parts), next((dtype for _, dtype in parts if dtype), "")
        flops = _product_flops(instruction, computation)
        return flops, _dtype(computation[instruction.operands[0]].shape) if flops else ""


def parse(text: str) -> Program:
    """Reads a program from the text that `as_text()` of a compiled program returns.

    Raises:
      ValueError: it has no entry computation.
    """
    program = Program()
    computation: Computation = {}
    for line in text.splitlines():
        if match := _INSTRUCTION.match(line):
            instruction = _instruction(match[1], line[match.end() :])
            computation[instruction.name] = instruction
        elif header := re.match(r"(ENTRY )?%?([\w.-]+) .*\{$", line):
            computation = program.computations[header[2]] = {}
            if header[1]:
                program.entry = header[2]
    if not program.entry:
        raise ValueError("the text is not that of a compiled program: it has no line that begins with ENTRY")
    return program


def _instruction(name: str, text: str) -> Instruction:
    end = _closing(text, 0) if text.startswith("(") else text.index(" ")
    shape, rest = text[:end], text[end:].lstrip()
    opening = rest.index("(")
    closing = _closing(rest, opening)
    operands = tuple(re.findall(r"%([\w.-]+)", rest[opening:closing]))
    opcode, inside = rest[:opening], rest[opening + 1 : closing - 1]
    attributes = f"{inside} {rest[closing:]}" if opcode == "parameter" else rest[closing:]
    return Instruction(name, shape, opcode, operands, attributes)


def _closing(text: str, opening: int) -> int:
    """Returns the index after the parenthesis that closes the one at `opening`."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, opening):
        depth += 1 if match[0] == "(" else -1
        if not depth:
            return match.end()
    raise ValueError(f"a parenthesis is not closed in {text[:80]!r}")


def _parameter_number(instruction: Instruction) -> int:
    return int(instruction.attributes.split()[0])


def _kind(instruction: Instruction) -> str:
    """Returns the kind of the kernel that an instruction launches, or "" if it launches none."""
    opcode = instruction.opcode
    if opcode == "fusion":
        return "fusion"
    if opcode == "custom-call":
        return "" if instruction.target in FREE_CALLS else "library call"
    if opcode == "copy":
        return "copy"
    is_part = opcode in ("while", "call", "conditional") or opcode.endswith(("-start", "-done", "-update"))
    return "" if opcode in FREE or is_part or opcode in COLLECTIVES else "other"


def _arrays(shape: str) -> list[tuple[str, list[int]]]:
    """Returns (dtype, sides) of the arrays in a shape such as f32[3,4]{1,0} or (f32[3], s32[])."""
    found = re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", shape)
    return [(dtype, [int(side) for side in sides.split(",") if side]) for dtype, sides in found if dtype in ITEM_BYTES]


def size(shape: str) -> int:
    """Returns the bytes of an HLO shape."""
    return sum(ITEM_BYTES[dtype] * math.prod(sides) for dtype, sides in _arrays(shape))


def _dtype(shape: str) -> str:
    return _arrays(shape)[0][0]


def _product_flops(instruction: Instruction, computation: Computation) -> float:
    """Returns the multiplications and additions of a matrix product or convolution, without those of padding."""
    is_library = any(name in instruction.target for name in ("conv", "matmul", "gemm"))
    if instruction.opcode not in ("dot", "convolution") and not is_library:
        return 0.0
    result = _arrays(instruction.shape)[0][1]
    factors = [_arrays(computation[operand].shape)[0][1] for operand in instruction.operands[:2]]
    contracted = re.search(r'lhs_contracting_dim(?:ension)?s"?[=:][{\[]"?([\d",]*)', instruction.attributes)
    if contracted:
        sides = [int(side.strip('"')) for side in contracted[1].split(",") if side.strip('"')]
        return 2.0 * math.prod(result) * math.prod(factors[0][side] for side in sides)
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    if not labels:
        return 0.0
    # Gradients by a library are described by the forward convolution: their factors are (output, kernel), or
    # (input, output).
    image, kernel, output = *factors, result
    if "BackwardFilter" in instruction.target:
        kernel, output = result, factors[1]
    elif "BackwardInput" in instruction.target:
        image, output = result, factors[0]
    flops = 2.0 * output[labels[3].index("b")] * output[labels[3].index("f")] * kernel[labels[2].index("i")]
    window = _window(instruction.attributes)
    for number, axis in enumerate(sorted(label for label in labels[1] if label.isdigit())):
        sides = (side[names.index(axis)] for side, names in zip((image, kernel, output), labels.groups(), strict=True))
        flops *= _pairs(*sides, **{name: values[number] for name, values in window.items()})
    return flops


def _window(attributes: str) -> dict[str, list[int]]:
    """Returns stride, low padding and dilations of a convolution, by spatial axis."""
    match = re.search(r"\bwindow=\{([^}]*)\}", attributes)
    fields = dict(part.split("=") for part in match[1].split()) if match else {}
    num_axes = len(fields.get("size", "").split("x")) if "size" in fields else 0

    def values(name: str, default: str) -> list[int]:
        texts = fields[name].split("x") if name in fields else [default] * num_axes
        return [int(text.split("_")[0]) for text in texts]

    return {
        name: values(name, "0_0" if name == "pad" else "1") for name in ("stride", "lhs_dilate", "rhs_dilate", "pad")
    }


def _pairs(image: int, kernel: int, output: int, stride: int, lhs_dilate: int, rhs_dilate: int, pad: int) -> int:
    """Returns how many pairs of an output and a tap along an axis meet a value of the image, and no padding."""
    end = (image - 1) * lhs_dilate + 1
    places = (place * stride + tap * rhs_dilate - pad for tap in range(kernel) for place in range(output))
    return sum(0 <= place < end and place % lhs_dilate == 0 for place in places)
