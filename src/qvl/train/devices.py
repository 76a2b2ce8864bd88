"""What a GPU can do, from its maker's data sheet; and the machine that it usually stands in."""

import difflib
from dataclasses import dataclass

from qvl.errors import UsageError


@dataclass(frozen=True)
class Device:
    """peak_flops: dense bf16 with float32 sums. memory_bytes: the sheet's GB, of 10^9 bytes. Bandwidths in bytes/s, one
    way: of the memory; `links` to the other GPUs of a node; `network` to other nodes, the GPU's share. `reported`:
    what the driver calls it, behind its maker's name."""

    peak_flops: float
    memory_bytes: float
    memory_bandwidth: float
    links: float
    network: float
    gpus_per_node: int
    reported: str


# NVIDIA's data sheets (H100, H200, B200: with the halves that they give for sparse matrices taken off; A100; L40S; Ada
# and GA102 white papers). Nodes as in DGX and HGX systems: a 400 Gb/s adapter for each H100, H200 and B200, 200 Gb/s
# for each A100; cards on PCIe (4.0 x16: 32 GB/s) are taken to have 100 Gb/s for four.
DEVICES = {
    "b200": Device(2250e12, 180e9, 7.7e12, 900e9, 50e9, 8, "B200"),
    "h200": Device(989.4e12, 141e9, 4.8e12, 450e9, 50e9, 8, "H200"),
    "h100": Device(989.4e12, 80e9, 3.35e12, 450e9, 50e9, 8, "H100 80GB HBM3"),
    "h100-pcie": Device(756e12, 80e9, 2.0e12, 64e9, 12.5e9, 8, "H100 PCIe"),
    "h20": Device(148e12, 96e9, 4.0e12, 450e9, 50e9, 8, "H20"),
    "a100-80g": Device(312e12, 80e9, 2.039e12, 300e9, 25e9, 8, "A100-SXM4-80GB"),
    "a100-40g": Device(312e12, 40e9, 1.555e12, 300e9, 25e9, 8, "A100-SXM4-40GB"),
    "l40s": Device(362e12, 48e9, 0.864e12, 32e9, 3.1e9, 8, "L40S"),
    "rtx4090": Device(165.2e12, 24e9, 1.008e12, 32e9, 3.1e9, 8, "RTX 4090"),
    "rtx3090": Device(71e12, 24e9, 0.936e12, 32e9, 3.1e9, 8, "RTX 3090"),
}


def device_named(name: str) -> Device:
    """The device of a name like h100; UsageError with the near miss for another."""
    device = DEVICES.get(name.lower())
    if device is None:
        close = difflib.get_close_matches(name.lower(), DEVICES, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(DEVICES)}"
        raise UsageError(f"--device {name!r}: {hint}")
    return device


def device_reported(name: str) -> Device | None:
    """The device behind the driver's name for it (torch.cuda.get_device_name); None where it is not in the table."""
    short = name.removeprefix("NVIDIA ").removeprefix("GeForce ")
    return next((device for device in DEVICES.values() if device.reported == short), None)
