"""Running `vllm bench`, reading its results and the server's metrics, and what bounds the speed.

Introduced in notebooks 07 to 09. `helpers.bench.load`, which needs the OpenAI SDK, is imported by its own name.
"""

from helpers.bench.fresh import run_fresh
from helpers.bench.measured import measured
from helpers.bench.metrics import MetricsWatch, read_metrics
from helpers.bench.results import Throughput, read_arrivals, read_serving, read_throughput
from helpers.bench.run import arrivals_command, run_bench, serving_command
from helpers.bench.stats import Spread, paired_ratio, spread
from helpers.errors import BenchmarkError

__all__ = [
    "BenchmarkError", "MetricsWatch", "Spread", "Throughput", "arrivals_command", "measured", "paired_ratio",
    "read_arrivals", "read_metrics", "read_serving", "read_throughput", "run_bench", "run_fresh", "serving_command",
    "spread",
]  # fmt: skip
