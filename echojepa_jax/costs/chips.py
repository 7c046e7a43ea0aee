"""Peak speeds and memory of accelerators, from their data sheets: the limits of plans."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator.

    flops: dense bfloat16 products, FLOP/s. memory: bytes. bandwidth: of that memory, bytes/s.
    links: bytes/s that it can send to its neighbours over all links, in one direction. joined:
    number of chips that such links join; 0 = all. network: bytes/s that a chip can send to others.
    Only for TPUs, clock: cycles/s, and delay: bundles of instructions that a core still starts
    after a branch.
    """

    name: str
    flops: float
    memory: float
    bandwidth: float
    links: float
    joined: int = 0
    network: float = 0.0
    clock: float = 0.0
    delay: int = 0

    def send(self, devices: int) -> float:
        """The highest speed, bytes/s, at which each of `devices` devices can send around a ring.

        A ring passes from machine to machine over all of their network cards. If one machine has
        room for all devices, they are assumed to be in one machine.
        """
        if 0 < self.joined < devices:
            return min(self.links, self.joined * self.network)
        return self.links


GIB = 2**30

# TPUs by the name in a topology such as "v5e:4x4". Clocks are what the products need: a chip has 8
# units of 128 x 128 (v4, v5p), 4 of them (v5e), or as much as 4 of 256 x 256 (v6e, and each core of
# a v7x: the compiler counts so many products a cycle), each with two FLOPs a place and cycle.
# Delays are those of schedules that libtpu 0.0.52 makes.
TPUS = {
    "v4": Chip("TPU v4", 275e12, 32 * GIB, 1228e9, 300e9, clock=1.05e9, delay=1),
    "v5e": Chip("TPU v5e", 197e12, 16 * GIB, 819e9, 200e9, clock=1.5e9, delay=4),
    "v5p": Chip("TPU v5p", 459e12, 95 * GIB, 2765e9, 600e9, clock=1.75e9, delay=4),
    "v6e": Chip("TPU v6e", 918e12, 32 * GIB, 1640e9, 448e9, clock=1.75e9, delay=4),
    # A chip is two devices to JAX, one for each of its cores, so this is half of what the data
    # sheet gives for a chip: 2307 TFLOP/s, 192 GiB, 7380 GB/s, and 1200 GB/s of links both ways.
    "v7x": Chip("TPU v7x core", 2307e12 / 2, 96 * GIB, 7380e9 / 2, 300e9, clock=2.2e9, delay=6),
}
# Machines of eight GPUs that are joined by NVLink; each GPU has a network card (200 Gb/s with an
# A100, else 400) to those of other machines.
GPUS = {
    "a100": Chip("A100-80GB", 312e12, 80e9, 2039e9, 300e9, 8, 25e9),
    "h100": Chip("H100-80GB", 989e12, 80e9, 3350e9, 450e9, 8, 50e9),
    "h200": Chip("H200-141GB", 989e12, 141e9, 4800e9, 450e9, 8, 50e9),
}
