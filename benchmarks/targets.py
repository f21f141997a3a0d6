"""Accelerators to compile for without one: descriptions for the compiler, and peaks from data sheets."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import hlo

# Bytes below which the time of a collective is its latency alone.
SMALL = 1 << 16


@dataclass(frozen=True)
class Accelerator:
    """An accelerator and its links.

    Peaks and bandwidths are the manufacturers'; the seconds of launches and messages are rough guesses.

    Attributes:
      name: product name.
      platform: JAX's name of the platform.
      flops: products per second, additions counted too, by HLO dtype of the factors; "" for other dtypes.
      memory_bandwidth: bytes per second.
      launch_seconds: from one kernel to the next, outside of a CUDA graph.
      group: devices that the fast links join.
      bandwidth, latency: bytes/s that a device sends within its group, and seconds of a message.
      outer_bandwidth, outer_latency: the same between groups.
      description: fields of the compiler's description, where it needs one.
    """

    name: str
    platform: str
    flops: Mapping[str, float]
    memory_bandwidth: float
    launch_seconds: float
    group: int
    bandwidth: float
    latency: float
    outer_bandwidth: float
    outer_latency: float
    description: Mapping[str, Any] = field(default_factory=dict)


ACCELERATORS = {
    "h100": Accelerator(
        name="H100 SXM",
        platform="cuda",
        flops={"bf16": 989e12, "": 494e12},  # float32 is multiplied in TF32
        memory_bandwidth=3.35e12,
        launch_seconds=3e-6,
        group=8,
        bandwidth=450e9,
        latency=3e-6,
        outer_bandwidth=50e9,
        outer_latency=10e-6,
        description={
            "gpu_device_info": {
                "cuda_compute_capability": {"major": 9},
                "core_count": 132,
                "fpus_per_core": 128,
                "threads_per_warp": 32,
                "threads_per_block_limit": 1024,
                "threads_per_core_limit": 2048,
                "registers_per_block_limit": 65536,
                "registers_per_core_limit": 65536,
                "shared_memory_per_block": 48 << 10,
                "shared_memory_per_block_optin": 227 << 10,
                "shared_memory_per_core": 228 << 10,
                "block_dim_limit_x": 2**31 - 1,
                "block_dim_limit_y": 65535,
                "block_dim_limit_z": 65535,
                "clock_rate_ghz": 1.98,
                "memory_bandwidth": 3352320000000,
                "l2_cache_size": 50 << 20,
                "device_memory_size": 84942979072,
            },
            "platform_name": "CUDA",
            "dnn_version_info": {"major": 9, "minor": 10, "patch": 0},
            "device_description_str": "NVIDIA H100 80GB HBM3",
        },
    ),
    "v5e": Accelerator(
        name="TPU v5e",
        platform="tpu",
        flops={"": 197e12},  # float32 is multiplied in bfloat16
        memory_bandwidth=819e9,
        launch_seconds=0.0,
        group=256,
        bandwidth=100e9,
        latency=1e-6,
        outer_bandwidth=100e9,
        outer_latency=1e-6,
    ),
}


def text_proto(fields: Mapping[str, Any]) -> str:
    """Returns fields as a protocol buffer in text form."""
    lines = []
    for name, value in fields.items():
        if isinstance(value, Mapping):
            lines.append(f"{name} {{ {text_proto(value)} }}")
        else:
            lines.append(f'{name}: "{value}"' if isinstance(value, str) else f"{name}: {value}")
    return " ".join(lines)


def accelerator(target: str) -> Accelerator:
    """Returns the accelerator of a target such as h100:1x1x8 or v5e:2x4.

    Raises:
      ValueError: it is not in the table.
    """
    name = target.split(":")[0]
    if name not in ACCELERATORS:
        raise ValueError(f"--target={target}: choose {', '.join(ACCELERATORS)}, with a topology such as h100:1x1x8")
    return ACCELERATORS[name]


def devices_of(target: str) -> list[Any]:
    """Returns the devices of a target, to compile for.

    Args:
      target: h100, h100:1x1x8 (slices x hosts x GPUs of a host), or a slice of TPUs such as v5e:2x4.

    Raises:
      ValueError: there is no such topology, or the package with its compiler is not installed.
    """
    from jax.experimental import topologies

    kind, topology = accelerator(target), target.partition(":")[2]
    try:
        if kind.platform == "cuda":
            description = topologies.get_topology_desc(
                platform="cuda",
                topology_name="",
                topology=topology or "1x1x1",
                target_config=text_proto(kind.description),
            )
        else:
            description = topologies.get_topology_desc(platform="tpu", topology_name=target)
    except Exception as error:  # JAX and its plugins raise various types
        raise ValueError(
            f"--target={target} cannot be described to the compiler ({type(error).__name__}: {error}); give a topology "
            "such as h100:1x1x8 or v5e:2x4, and install the compilers, pip install -e '.[ahead]', in the version of jax"
        ) from None
    return list(description.devices)


def kernel_seconds(kernel: hlo.Kernel, kind: Accelerator) -> float:
    """Returns a lower bound of a kernel's time: the slower of its products and its bytes at their peaks, and launch."""
    computing = kernel.flops / kind.flops.get(kernel.dtype, kind.flops[""])
    return kernel.times * (max(computing, kernel.num_bytes / kind.memory_bandwidth) + kind.launch_seconds)


def reduction_seconds(num_bytes: int, devices: int, bandwidth: float, latency: float) -> float:
    """Returns the time of an all-reduce over a ring or a tree, whichever is faster."""
    if devices == 1:
        return 0.0
    ring = 2 * (devices - 1) * (latency + num_bytes / devices / bandwidth)
    tree = 2 * math.ceil(math.log2(devices)) * (latency + num_bytes / bandwidth)
    return min(ring, tree)


def communication_seconds(collectives: Sequence[hlo.Collective], kind: Accelerator, devices: int) -> float:
    """Returns the predicted time of a step's collectives, none of which overlaps with computation.

    Reductions within a group and between groups follow one another. Small ones cost the latency of the longest chain.
    """
    inner, outer = min(devices, kind.group), -(-devices // kind.group)

    def reduction(num_bytes: int) -> float:
        within = reduction_seconds(num_bytes, inner, kind.bandwidth, kind.latency)
        return within + reduction_seconds(num_bytes // inner, outer, kind.outer_bandwidth, kind.outer_latency)

    large_bytes = sum(collective.num_bytes for collective in collectives if collective.num_bytes >= SMALL)
    in_a_row = max((collective.depth + 1 for collective in collectives), default=0)
    return (reduction(large_bytes) if large_bytes else 0.0) + in_a_row * reduction(0)
