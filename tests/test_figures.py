"""The pictures: same bytes on every run, numbers computed, nothing overlapping."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import warnings

import matplotlib as mpl
import nbformat
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.ft2font import FT2Font

from helpers.authoring import figures, series
from helpers.authoring.figures import batching
from helpers.bench.plots import FONT_FILE, plot_style
from helpers.errors import ConfigError

NAMES = sorted(figures.FIGURES)


def words(name: str) -> str:
    return "\n".join(text.get_text() for text in figures.FIGURES[name]().axes[0].texts)


@pytest.mark.parametrize("name", NAMES)
def test_committed_picture_is_what_the_function_draws(name):
    assert (figures.IMAGES_DIR / name).read_bytes() == figures.draw(name), "run: python -m helpers.authoring.figures"


def test_every_file_in_images_has_a_function():
    assert sorted(file.name for file in figures.IMAGES_DIR.iterdir()) == NAMES


def test_bytes_do_not_depend_on_process_or_active_style(tmp_path):
    with mpl.rc_context({"font.size": 20, "svg.fonttype": "none", "font.family": "serif", "savefig.bbox": "tight"}):
        here = figures.draw("think_protocol.svg")
    code = f"from helpers.authoring import figures; figures.main(__import__('pathlib').Path({str(tmp_path)!r}))"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONHASHSEED": "7"})
    assert (tmp_path / "think_protocol.svg").read_bytes() == here
    assert sorted(file.name for file in tmp_path.iterdir()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_text_is_legible(name):
    """Every glyph exists; every text lies inside the canvas; no text lies over another one; none is tiny."""
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("error")
        mpl.rcdefaults()
        plot_style()
        figure = figures.FIGURES[name]()
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        boxes = [(text, text.get_window_extent(canvas.get_renderer())) for text in figure.axes[0].texts]
    assert boxes
    for text, box in boxes:
        assert text.get_fontsize() >= 8.5
        assert figure.bbox.x0 <= box.x0, text
        assert box.x1 <= figure.bbox.x1, text
        assert figure.bbox.y0 <= box.y0, text
        assert box.y1 <= figure.bbox.y1, text
    for (text, box), (other, other_box) in itertools.combinations(boxes, 2):
        width = min(box.x1, other_box.x1) - max(box.x0, other_box.x0)
        height = min(box.y1, other_box.y1) - max(box.y0, other_box.y0)
        assert width <= 0 or height <= 1, (text, other)


def test_font_has_the_characters_of_the_plots_in_the_notebooks():
    drawn = [
        cell.source
        for path in series.notebook_paths()
        for cell in nbformat.read(path, as_version=4).cells
        if cell.cell_type == "code" and "plt.show" in cell.source
    ]
    assert drawn
    missing = {ord(letter) for letter in "".join(drawn)} - {10} - FT2Font(FONT_FILE).get_charmap().keys()
    assert not missing, "run: python -m helpers.authoring.figures.font (its docstring says with what)"


def test_unknown_picture_lists_the_known_ones():
    with pytest.raises(ConfigError, match="paged_attention"):
        figures.draw("nosuch.svg")


def test_busy_share_of_the_two_batchings():
    static = batching.simulate_static(batching.OUTPUT_TOKENS, batching.SLOTS)
    continuous = batching.simulate_continuous(batching.OUTPUT_TOKENS, batching.SLOTS)
    assert (max(run.end for run in static), max(run.end for run in continuous)) == (14, 9)  # 8 + 6; by hand
    assert batching.busy_percent(static, 4) == pytest.approx(100 * 33 / 56)
    assert batching.busy_percent(continuous, 4) == pytest.approx(100 * 33 / 36)
    shown = words("continuous_batching.svg")
    assert "14 步，位置用了 59%" in shown
    assert "9 步，位置用了 92%" in shown
    assert "早了 5 步" in shown


@pytest.mark.parametrize("simulate", [batching.simulate_static, batching.simulate_continuous])
@pytest.mark.parametrize("lengths", [(5,), (3, 8, 2, 5, 6, 2, 4, 3), (1, 1, 1, 9, 9, 2, 7)])
def test_simulations_run_every_request_once_and_one_per_slot(simulate, lengths):
    runs = simulate(lengths, 3)
    assert sorted((run.request, run.end - run.start) for run in runs) == list(enumerate(lengths))
    cells = [(run.slot, step) for run in runs for step in range(run.start, run.end)]
    assert len(cells) == len(set(cells))
    assert {slot for slot, _ in cells} <= set(range(3))


def test_static_waits_for_the_longest_and_continuous_never_waits():
    static = batching.simulate_static((1, 9, 4), 2)
    assert [run.start for run in static] == [0, 0, 9]
    continuous = batching.simulate_continuous((1, 9, 4), 2)
    assert [run.start for run in continuous] == [0, 0, 1]


def test_paged_attention_counts():
    shown = words("paged_attention.svg")
    assert "预留了 2039 格" in shown
    assert "放得下 4096 个 token 的地方，只放了 16 个" in shown
    assert "分出去 16 格，12 格放着 token" in shown  # A: 9 tokens, B: 7, 4 of them shared; four blocks of 4


def test_memory_of_a_24_gb_card():
    shown = words("memory_24gb.svg")
    assert "14.2 GiB" in shown
    # by hand: 23.6 x 0.9 - 14.19 - 2.0 = 5.05 GiB; / (2 x 28 layers x 512 x 2 bytes) = 94,649
    assert "5.1 GiB / 56 KiB（每个 token）= 9.5 万个 token" in shown
    assert [line for line in shown.splitlines() if line.isdigit()] == ["46", "11", "2", "0"]
    assert "一个请求就要 7.0 GiB" in shown


def test_think_protocol_shows_the_order_of_the_template():
    shown = words("think_protocol.svg").splitlines()
    order = ["<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"]
    assert [line for line in shown if line in order] == order
