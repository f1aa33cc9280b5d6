"""The two speeds that bound a machine."""

from __future__ import annotations

from helpers.roofline import copy_bandwidth, matmul_rate

__all__ = ["limits"]


def limits(*, device: str, dtype: str, gib: float, size: int) -> dict[str, float]:
    """Measure `copy_gb_s` with a buffer of `gib` GiB and `matmul_tflops` with `size`×`size` matrices."""
    return {"copy_gb_s": copy_bandwidth(device, gib=gib), "matmul_tflops": matmul_rate(device, dtype, size=size)}
