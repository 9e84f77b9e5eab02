"""One line of the runner's JSON, as it prints it."""

from typing import Any

MEMORY = {"vm_hwm_kb": 5, "vm_rss_kb": 4, "rss_anon_kb": 3, "rss_file_kb": 2, "pss_kb": None}
LINE: dict[str, Any] = {
    "schema": 1,
    "engine": "executorch",
    "engine_version": "1.5.1",
    "model_bytes": 4096,
    "threads": 1,
    "cores": "f0",
    "load_ms": 1.5,
    "first_ms": 2.5,
    "samples_ms": [1, 1.25],
    "output_shape": [1, 2],
    "outputs": [[0.5, -1e-30], [3.0, 4.0]],
    "memory": dict.fromkeys(("start", "loaded", "first", "end"), MEMORY),
    "core_before": 4,
    "core_after": 5,
    "mhz_before": 1804.8,
    "mhz_after": None,
    "preemptions": 7,
}
