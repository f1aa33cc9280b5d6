"""Every picture in `images/`: a registry from file name to the function that draws it.

`python -m helpers.authoring.figures` draws them all again; the bytes are the same on every run with the locked
matplotlib. The numbers in the pictures are computed, not typed.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Final

import matplotlib as mpl
from matplotlib.figure import Figure

from helpers.authoring.figures.batching import continuous_batching
from helpers.authoring.figures.fit import fit_your_card, gpu_family
from helpers.authoring.figures.gpu import api_servers, curve, roofline, throughput
from helpers.authoring.figures.memory import memory_24gb
from helpers.authoring.figures.paging import paged_attention
from helpers.authoring.figures.protocol import think_protocol
from helpers.authoring.figures.request import serving_path
from helpers.bench.plots import plot_style
from helpers.config import REPO_ROOT
from helpers.errors import ConfigError

__all__ = ["FIGURES", "IMAGES_DIR", "draw", "main"]

IMAGES_DIR: Final = REPO_ROOT / "images"

FIGURES: Final[dict[str, Callable[[], Figure]]] = {
    "paged_attention.svg": paged_attention,
    "continuous_batching.svg": continuous_batching,
    "serving_path.svg": serving_path,
    "memory_24gb.svg": memory_24gb,
    "think_protocol.svg": think_protocol,
    "gpu_throughput.svg": throughput,
    "gpu_roofline.svg": roofline,
    "gpu_curve.svg": curve,
    "gpu_api_servers.svg": api_servers,
    "fit_your_card.svg": fit_your_card,
    "gpu_family.svg": gpu_family,
}


def draw(name: str, *, fmt: str = "svg", dpi: int = 96) -> bytes:
    """Draw one registered picture in the course's own style, whatever style is active here.

    Args:
        name: a key of `FIGURES`.
        fmt: `svg` (what `images/` holds) or `png` (to look at).
        dpi: pixels per inch of a PNG.

    Raises:
        ConfigError: no picture has this name; the message lists the names.
    """
    if name not in FIGURES:
        raise ConfigError(f"没有叫 {name!r} 的图；有这些：{'、'.join(FIGURES)}")
    buffer = io.BytesIO()
    with mpl.rc_context():
        mpl.rcdefaults()
        plot_style()
        FIGURES[name]().savefig(buffer, format=fmt, dpi=dpi, metadata={"Date": None} if fmt == "svg" else None)
    return buffer.getvalue()


def main(folder: Path = IMAGES_DIR) -> int:
    """Draw every picture into `folder`; returns the exit status."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in FIGURES:
        (folder / name).write_bytes(draw(name))
        print(folder / name)
    return 0
