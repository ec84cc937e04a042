"""Empties, in vLLM's shared libraries, the machine code that an H100 cannot run or no step calls: it packs to nothing.

    python benchmarks/gpu/vllm_strip.py vllm/_C_stable_libtorch.abi3.so …

CUDA keeps a kernel's code in the ELF section .nv_fatbin as entries, one per kind of GPU, each after a header that names
the kind. Code for other GPUs than sm_90 becomes zeros, headers stay, and the loader passes over it. Of FlashAttention 3
the 16-bit kernels for heads of 64 and 128 stay, which also serve narrower heads.
"""

from __future__ import annotations

import mmap
import re
import struct
import subprocess
import sys
from collections.abc import Iterator

MAGIC = struct.pack("<I", 0xBA55ED50)
ELF_OF_GPU, HOPPER = 2, 90
HEADS = (64, 128)
Entry = tuple[int, int, int, int]
"""Kind (1 PTX, 2 machine code), kind of GPU, offset and bytes of the code."""


def fat_binaries(data: mmap.mmap) -> tuple[int, int]:
    """Offset and bytes of the section .nv_fatbin of a 64-bit ELF file."""
    (table,) = struct.unpack_from("<Q", data, 0x28)
    size, number, of_names = struct.unpack_from("<HHH", data, 0x3A)
    heads = [struct.unpack_from("<IIQQQQ", data, table + place * size) for place in range(number)]
    for head in heads:
        name = heads[of_names][4] + head[0]
        if data[name : data.find(b"\0", name)] == b".nv_fatbin":
            return head[4], head[5]
    return 0, 0


def entries(data: mmap.mmap) -> Iterator[Entry]:
    start, size = fat_binaries(data)
    at, end = start, start + size
    while (at := data.find(MAGIC, at, end)) >= 0:
        _, head, length = struct.unpack_from("<HHQ", data, at + 4)
        at, stop = at + head, at + head + length
        while at < stop:
            kind, _, own_head, own_size = struct.unpack_from("<HHIQ", data, at)
            (gpu,) = struct.unpack_from("<I", data, at + 28)
            yield kind, gpu, at + own_head, own_size
            at += own_head + own_size


def is_needed(kernel: str) -> bool:
    """True if a demangled kernel is none of FlashAttention's main ones, or one that stays."""
    tile = r"cute::tuple<cute::C<\d+>, cute::C<\d+>, cute::C<(\d+)> >"  # queries, keys, width of a head
    found = re.search(rf"CollectiveMainloopFwdSm90<\d+, cute::tuple<.*?>, {tile}, (\d+), cutlass::(\w+)", kernel)
    if not found:
        return "CollectiveMainloopFwdSm90" not in kernel
    keys, values, number = int(found[1]), int(found[2]), found[3]
    return keys == values and keys in HEADS and number in ("bfloat16_t", "half_t")


def kernels(codes: list[bytes]) -> list[str]:
    """The demangled name of a kernel in each piece of code; of the main loops, where there is one."""
    found = []
    for code in codes:
        names = re.findall(rb"\.text\.(_Z\S+?)\0", code)
        main = [name for name in names if b"CollectiveMainloopFwdSm90" in name]
        found.append((main or names or [b""])[0].decode())
    return subprocess.run(["c++filt"], input="\n".join(found), text=True, capture_output=True, check=True).stdout.split(
        "\n"
    )


def strip(path: str) -> None:
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as data:
        found = list(entries(data))
        mine = [one for one in found if one[:2] == (ELF_OF_GPU, HOPPER)]
        names = kernels([data[at : at + size] for *_, at, size in mine])
        kept = {one for one, name in zip(mine, names, strict=False) if is_needed(name)}
        for one in found:
            *_, at, size = one
            if one not in kept:
                data[at : at + size] = bytes(size)
        print(f"{path}: {sum(one[3] for one in kept) / 1e6:.1f} of {sum(one[3] for one in found) / 1e6:.1f} MB stay")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        strip(name)
