"""The peak FLOP/s of devices by name, without an import of torch."""

from __future__ import annotations

# Name, peak 10^12 FLOP/s in bf16 or fp16 with float32 sums, and in fp32 without TF32: dense matrices, from the makers'
# data sheets. The first name that is part of the device's name counts, so longer names stand first.
_PEAK_TFLOPS: tuple[tuple[str, float, float], ...] = (
    ("B200", 2250.0, 75.0),
    ("GH200", 989.4, 66.9),
    ("H200", 989.4, 66.9),
    ("H100 PCIe", 756.0, 51.0),
    ("H100 NVL", 835.5, 60.0),
    ("H100", 989.4, 66.9),
    ("H800", 989.4, 66.9),
    ("H20", 148.0, 44.0),
    ("A100", 312.0, 19.5),
    ("A800", 312.0, 19.5),
    ("A40", 149.7, 37.4),
    ("A30", 165.0, 10.3),
    ("A10G", 70.0, 31.5),
    ("A10", 125.0, 31.2),
    ("RTX A6000", 154.8, 38.7),
    ("L40S", 362.0, 91.6),
    ("L40", 181.0, 90.5),
    ("L4", 121.0, 30.3),
    ("RTX 4090", 165.2, 82.6),
    ("RTX 3090", 71.0, 35.6),
    ("V100", 125.0, 15.7),
    ("T4", 65.0, 8.1),
    ("MI300X", 1307.4, 163.4),
)


def listed_peak_flops(name: str, precision: str) -> float | None:
    """Peak FLOP/s of the device of this name; None for a name that is not in the table."""
    for part, half, single in _PEAK_TFLOPS:
        if part in name:
            return (single if precision == "fp32" else half) * 1e12
    return None
