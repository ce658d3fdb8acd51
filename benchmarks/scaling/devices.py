"""The machines of the tables, by their vendors' numbers.

NVIDIA H200 (SXM): NVIDIA's H200 data sheet; it quotes tensor-core rates with 2:4 sparsity, these are the
dense halves. TPU v5e and v4: the pages of these names in Google's Cloud TPU documentation. Float32 on the TPU
is six passes of bfloat16, which is how `Precision.HIGHEST` multiplies there. Memory is in decimal bytes.
"""

from typing import NamedTuple

HOP_SECONDS = 1e-6  # assumed: one step from chip to chip
LAUNCH_SECONDS = 5e-6  # assumed: the least that one compiled call takes
USABLE = 0.9  # assumed: share of a device's memory that a state may take; JAX's default on a GPU is 0.75


class Chip(NamedTuple):
    """Peaks of one chip."""

    name: str
    memory: float  # bytes
    bandwidth: float  # bytes/s of its memory
    rates: dict[str, float]  # multiply-adds count two, per second, by type of key
    link: float = 0.0  # bytes/s of one link to a neighbour, one way


class Slice(NamedTuple):
    """Chips that hold one memory, its slots split evenly."""

    name: str
    chip: Chip
    axes: tuple[int, ...] = (1,)  # chips along each axis of the mesh
    ports: int = 1  # links that a chip has along one axis: 2 on a ring, 1 at the end of a chain

    @property
    def chips(self) -> int:
        """How many."""
        count = 1
        for axis in self.axes:
            count *= axis
        return count

    def hops(self, axis: int) -> int:
        """The longest way along one axis."""
        return axis // 2 if self.ports == 2 else axis - 1


H200_CHIP = Chip(
    "H200", 141e9, 4.8e12, {"float32": 67e12, "TF32": 495e12, "bfloat16": 989e12, "int8": 1979e12}
)
V5E_CHIP = Chip(
    "TPU v5e",
    16e9,
    819e9,
    {"float32": 197e12 / 6, "bfloat16": 197e12, "int8": 393e12},
    link=1600e9 / 8 / 4,  # four ports a chip
)
V4_CHIP = Chip(
    "TPU v4",
    32 * 2**30,
    1200e9,
    {"float32": 275e12 / 6, "bfloat16": 275e12},
    link=1.1e15 / 4096 / 6,  # the pod's bandwidth of an all-reduce, by chip and link
)
H200 = Slice("H200", H200_CHIP)
V5E_8 = Slice("v5e-8", V5E_CHIP, (2, 4))
V5E_256 = Slice("v5e-256", V5E_CHIP, (16, 16), ports=2)
V4_2048 = Slice("v4-2048", V4_CHIP, (8, 16, 16), ports=2)  # of chips; for training alone
SLICES = (H200, V5E_8, V5E_256)
