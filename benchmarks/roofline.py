"""Roofline of a network's parts: the time of each alone, relative to the bound of this device."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import networks
import paired
import records
from processes import Options

from dim_jax.cli import command_line

SUMMARY = """\
Times the parts of LRF-CNN (stem, blocks, head) or of GCGAN's two networks, each as a program of its own on inputs of
the shapes that it gets in the network, and then the whole network. `forward` is inference on prepared weights; `both`
is a training pass with the gradients of parameters and inputs, but for the images that LRF-CNN is given. The bound is
the larger of operations / peak and bytes / bandwidth, where peak and bandwidth were just measured by a large matrix
product and a large copy, and the bytes are inputs, parameters and outputs once each, in the dtype of the computation.
Activations and poolings between the parts are in the whole network alone. Tenths of a millisecond may be the overhead
of a dispatch; a share above 100 % means that data stayed in a cache."""
EXAMPLES = """\
  python benchmarks/roofline.py --image-size=64 --width=0.25 --batch-size=16 --json=roofline.json
  python benchmarks/roofline.py --dtype=bfloat16 --batch-size=128
  python benchmarks/roofline.py --network=gcgan --image-size=256 --dtype=bfloat16
"""
NETWORKS = ("lrf_cnn", "gcgan")
PASSES = ("forward", "both")


class Part(NamedTuple):
    """A module of a network with its arguments in training.

    Attributes:
      path: names from the network to the module; for a network itself, its name alone.
      module: unbound.
      variables: of the module.
      arguments: shapes of arrays, and plain values; the only bool is `train`.
      method: name of the method that is called.
    """

    path: tuple[str, ...]
    module: Any
    variables: Mapping[str, Any]
    arguments: tuple[Any, ...]
    method: str = "__call__"

    def apply(self, variables: Mapping[str, Any], arrays: Mapping[int, Any], train: bool, **options: Any) -> Any:
        """Applies the module, with `arrays` (position -> array) in place of shapes."""
        known = [train if isinstance(argument, bool) else argument for argument in self.arguments]
        for place, array in arrays.items():
            known[place] = array
        return self.module.apply(variables, *known, method=self.method, **options)

    def shapes(self) -> dict[int, Any]:
        """Returns the shapes of the array arguments by position."""
        return {place: shape for place, shape in enumerate(self.arguments) if hasattr(shape, "shape")}

    def gradients(self, params: Any, rest: Mapping[str, Any], arrays: Any, others: Any, along: Any) -> Any:
        """Returns the gradients of a training pass to `params` and `arrays` for the cotangent `along`."""
        import jax

        def outputs(params: Any, arrays: Any) -> Any:
            return self.apply({**rest, "params": params}, {**arrays, **others}, True, mutable=list(rest))[0]

        return jax.vjp(outputs, params, arrays)[1](along)


def parts_of(network: Part, containers: tuple[type, ...]) -> list[Part]:
    """Returns the modules that a pass through a network calls, in order, and then the network.

    Args:
      network: the network.
      containers: classes of modules that are split further, the network's own among them.
    """
    import flax.linen as nn
    import jax

    parts: dict[tuple[str, ...], Part] = {}

    def note(call: Callable, arguments: tuple, options: dict, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        is_part = isinstance(module.parent, containers) and not isinstance(module, containers)
        if is_part and context.method_name == "__call__":
            shapes = tuple(_shape_of(argument) for argument in arguments)
            variables = {name: _within(tree, module.path) for name, tree in network.variables.items()}
            variables = {name: tree for name, tree in variables.items() if tree}
            path = (*network.path, *module.path)
            parts.setdefault(path, Part(path, module.clone(parent=None, name=None), variables, shapes))
        return call(*arguments, **options)

    mutable = [name for name in network.variables if name != "params"]
    with nn.intercept_methods(note):
        jax.eval_shape(
            lambda variables, arrays: network.apply(variables, arrays, True, mutable=mutable),
            network.variables,
            network.shapes(),
        )
    return [*parts.values(), network]


def _shape_of(argument: Any) -> Any:
    import jax

    return jax.ShapeDtypeStruct(argument.shape, argument.dtype) if isinstance(argument, jax.Array) else argument


def _within(tree: Mapping[str, Any], path: Sequence[str]) -> Mapping[str, Any]:
    for name in path:
        tree = tree.get(name, {})
    return tree


def lrf_cnn(options: Options) -> Iterator[list[Part]]:
    """Yields the parts of LRF-CNN."""
    import jax

    from dim_jax.models.lrf_cnn import LRFCNN

    model, variables, _ = networks.ours(options | {"model": networks.LRF_CNN})
    count, size = options["batch_size"], options["image_size"]
    arguments = (jax.ShapeDtypeStruct((count, size, size, 3), "float32"), True, _keys(count))
    yield parts_of(Part(("lrf_cnn",), model.clone(axis_name=None), variables, arguments), (LRFCNN,))


def gcgan(options: Options) -> Iterator[list[Part]]:
    """Yields the parts of the generator, then those of the discriminator."""
    import jax

    from dim_jax.models import gcgan, make_gan
    from dim_jax.models.scales import small_size

    count, size = options["batch_size"], options["image_size"]
    generator, discriminator = make_gan(
        size, 0, width=options["width"], dtype=options["dtype"], context="map", tanh=size == 1024
    )
    latents = jax.ShapeDtypeStruct((count, generator.latent_size), "float32")
    views = [jax.ShapeDtypeStruct((count, side, side, 3), "float32") for side in (size, small_size(size))]
    drawing = Part(("generator",), generator, {}, (latents, True, None, _keys(count)))
    judging = Part(("discriminator",), discriminator, {}, (*views, 0, True), "reconstruct")
    for network in (drawing, judging):
        containers = (gcgan.Generator, gcgan.Discriminator, gcgan.BigBranch, gcgan.SmallBranch)
        yield parts_of(network._replace(variables=_initial(network)), containers)


def _keys(count: int) -> Any:
    import jax

    return jax.eval_shape(lambda: jax.random.split(jax.random.key(0), count))


def _initial(network: Part) -> Mapping[str, Any]:
    """Draws the variables of a network, from one example."""
    import jax

    from dim_jax.training import initial_weights

    def init(key: jax.Array) -> Any:
        arguments = list(network.arguments)
        for place, shape in network.shapes().items():
            arguments[place] = _random(key, jax.ShapeDtypeStruct((1, *shape.shape[1:]), shape.dtype))
        return network.module.init(key, *arguments, method=network.method)

    return initial_weights.draw(init, 0)


def _random(key: Any, shape: Any) -> Any:
    """Returns an array of a shape: random keys, or standard normal numbers."""
    import jax

    if jax.dtypes.issubdtype(shape.dtype, jax.dtypes.prng_key):
        return jax.random.split(jax.random.key(0), shape.shape)
    return jax.random.normal(key, shape.shape).astype(shape.dtype)


def programs(part: Part, fixed: Sequence[Any]) -> Iterator[tuple[str, Callable, tuple, tuple]]:
    """Yields (name, function, arguments to time it with, arguments to count it with) of each pass through a part.

    The two differ in what is prepared of the weights, which is not part of the work asked for.

    Args:
      fixed: shapes of arguments that training needs no gradient for.
    """
    import jax

    from dim_jax.models.prepared_weights import PREPARED

    key = jax.random.key(0)
    arrays = {place: _random(key, shape) for place, shape in part.shapes().items()}
    variables = jax.device_put(part.variables)

    def forward(variables: Any, arrays: Any) -> Any:
        return part.apply(variables, arrays, False)

    prepare = jax.jit(lambda variables, arrays: part.apply(variables, arrays, False, mutable=[PREPARED])[1])
    prepared = {**variables, **prepare(variables, arrays)}
    yield PASSES[0], forward, (prepared, arrays), (variables, arrays)

    rest = dict(variables)
    params = rest.pop("params")
    outputs = jax.eval_shape(lambda: part.apply(variables, arrays, True, mutable=list(rest))[0])
    along = jax.tree.map(lambda shape: _random(key, shape), outputs)
    others = {place: array for place, array in arrays.items() if _is_key(array) or _shape_of(array) in fixed}
    arrays = {place: array for place, array in arrays.items() if place not in others}
    arguments = (params, rest, arrays, others, along)
    yield PASSES[1], part.gradients, arguments, arguments


def _is_key(array: Any) -> bool:
    import jax

    return jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key)


def _bytes(tree: Any, dtype: str) -> int:
    """Returns how many bytes the numbers in a tree take at this dtype."""
    import jax
    import jax.numpy as jnp

    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return sum(leaf.size for leaf in leaves) * jnp.dtype(dtype).itemsize


def measure(parts: Sequence[Part], options: Options, peaks_here: Mapping[str, float]) -> list[dict[str, Any]]:
    """Times every part.

    Args:
      parts: as parts_of returns them.
      options: `rounds`, `dtype` and `network`.
      peaks_here: flops_per_second and bytes_per_second of the device.

    Returns:
      For each part and pass: part, pass, milliseconds (see records.spread), flops, bytes, flops_per_byte,
      bound_milliseconds, bound_by ("operations" or "bytes") and share_of_bound.
    """
    import flops
    import jax
    import peaks

    fixed = list(parts[-1].shapes().values()) if options["network"] == "lrf_cnn" else []
    rows = []
    for part in parts:
        for name, function, to_time, to_count in programs(part, fixed):
            compiled = jax.jit(function)
            seconds = peaks.seconds_per_call(lambda call=compiled, arrays=to_time: call(*arrays), options["rounds"])
            num_flops = flops.of_program(function, *to_count)
            moved = _bytes((to_count, jax.eval_shape(function, *to_count)), options["dtype"])
            bounds = {
                "operations": num_flops / peaks_here["flops_per_second"],
                "bytes": moved / peaks_here["bytes_per_second"],
            }
            bound_by = max(bounds, key=bounds.__getitem__)
            spread = records.spread([1000 * value for value in seconds])
            rows.append(
                {
                    "part": "/".join(part.path),
                    "pass": name,
                    "milliseconds": spread,
                    "flops": num_flops,
                    "bytes": moved,
                    "flops_per_byte": num_flops / moved,
                    "bound_milliseconds": 1000 * bounds[bound_by],
                    "bound_by": bound_by,
                    "share_of_bound": 1000 * bounds[bound_by] / spread["median"],
                }
            )
    return rows


def table(title: str, result: Mapping[str, Any]) -> str:
    """Returns the result for people."""
    width = max(len(row["part"]) for row in result["parts"])
    lines = [
        title,
        f"{'':{width}} {'pass':8}{'ms (min .. max)':>28}{'GFLOP':>10}{'MB':>9}{'FLOP/B':>9}{'bound ms':>10}  by"
        f"{'of bound':>19}",
    ]
    for row in result["parts"]:
        took = row["milliseconds"]
        shown = f"{took['median']:.4g} ({took['min']:.4g} .. {took['max']:.4g})"
        lines.append(
            f"{row['part']:{width}} {row['pass']:8}{shown:>28}{row['flops'] / 1e9:10.4g}{row['bytes'] / 1e6:9.4g}"
            f"{row['flops_per_byte']:9.4g}{row['bound_milliseconds']:10.4g}  {row['bound_by']:10}"
            f"{row['share_of_bound']:11.1%}"
        )
    device, surroundings = result["device"], result["environment"]
    lines.append(
        f"peak {result['flops_per_second'] / 1e12:.4g} TFLOP/s in a large matrix product, bandwidth "
        f"{result['bytes_per_second'] / 1e9:.4g} GB/s in a large copy, both measured before"
    )
    lines.append(", ".join(f"{key} {value}" for key, value in device.items()))
    lines.append(f"{surroundings['cpu']}, load {surroundings['load_average'][0]:.1f}, {surroundings['date']}")
    return "\n".join(lines)


def parse(arguments: Sequence[str]) -> dict[str, Any]:
    """Returns the options.

    Raises:
      ValueError: one of them makes no sense.
    """
    parser = command_line.parser("roofline", SUMMARY, EXAMPLES)
    parser.prog = "python benchmarks/roofline.py"
    add = parser.add_argument
    add("--network", choices=NETWORKS, default=NETWORKS[0], help=f"default {NETWORKS[0]}")
    add("--image-size", type=int, default=None, metavar="PX", help="side of the images (default 299; gcgan: 256)")
    add("--batch-size", type=int, default=8, help="images (default 8)")
    add("--width", type=float, default=1.0, help="multiplies all channel counts (default 1)")
    add("--stages", default=networks.STAGES, help="channels of LRF-CNN's blocks, stages parted by /")
    add("--rounds", type=int, default=5, help="measured rounds of each part, of about 0.2 s (default 5)")
    add("--dtype", choices=paired.DTYPES, default="float32", help="of the computation (default float32)")
    add("--platform", choices=paired.PLATFORMS, default="default", help="default: a GPU where there is one")
    add("--json", metavar="OUT", type=records.json_path, help="also write everything measured to this file")
    options = vars(parser.parse_args(arguments))
    if options["image_size"] is None:
        options["image_size"] = 256 if options["network"] == "gcgan" else 299
    checked = options | {"steps": 1, "threads": 0}
    networks.check(checked)
    options["stages"] = checked["stages"]
    if options["network"] == "gcgan":
        networks.check_gan_size(options)
    return options


def main(arguments: Sequence[str]) -> None:
    """Parses the command line, measures and prints."""
    options = parse(arguments)
    device = networks.our_device(options)
    import peaks

    surroundings = records.environment({"threads": 0})
    reached = {
        "flops_per_second": peaks.matmul_flops_per_second(options["dtype"]),
        "bytes_per_second": peaks.copied_bytes_per_second(),
    }
    parts_by_network = {"lrf_cnn": lrf_cnn, "gcgan": gcgan}[options["network"]](options)
    measured = [row for parts in parts_by_network for row in measure(parts, options, reached)]
    result = {"device": device, "environment": surroundings, **reached, "parts": measured}
    title = (
        f"Parts of {options['network']}: {options['image_size']} px, batch {options['batch_size']}, "
        f"width {options['width']:g}, {options['dtype']}"
    )
    print(table(title, result))
    records.write("roofline", options, result)


if __name__ == "__main__":
    sys.exit(command_line.run(main))
