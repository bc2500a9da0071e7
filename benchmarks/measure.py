"""Time functions side by side, and say on what machine.

On a GPU the clock is the wall's. On a CPU it is that of the processor, and everything runs in one
thread: on an idle machine the two clocks then agree, and on a busy one only this one is of use.
"""

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import torch

Row = dict[str, Any]


def machine(device: torch.device) -> Row:
    """Describe the device, the versions and how busy the machine is."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else _processor(),
        "type": device.type,
        "clock": "wall" if cuda else "processor",
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "numpy", "scikit-learn")},
        "cuda": torch.version.cuda if cuda else None,
        "finished": datetime.now(UTC).isoformat(timespec="minutes"),
    }


def _processor() -> str:
    if sys.platform == "linux":
        with open("/proc/cpuinfo") as lines:
            names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def measure(
    functions: Mapping[str, Callable[[], object]],
    device: torch.device,
    repeats: int,
    budget: float = 4.0,
) -> dict[str, Row]:
    """Time functions in turns, so that what else goes on in the machine meets all of them alike.

    Each runs once unmeasured, then ``repeats`` times, or until it has taken ``budget`` seconds;
    where the first run alone takes a tenth of that, it counts too. Returns by name: median,
    quartiles and fastest, in seconds, and the number of measured runs.
    """
    times = {name: [_run(function, device)] for name, function in functions.items()}
    for _ in range(repeats):
        for name, function in functions.items():
            if sum(times[name]) < budget:
                times[name].append(_run(function, device))
    slow = {name: values[0] > budget / 10 for name, values in times.items()}
    return {name: summary(values[not slow[name] :]) for name, values in times.items()}


def summary(values: list[float]) -> Row:
    """Median, quartiles, fastest and number of measured times."""
    low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    rounded = {"median": statistics.median(values), "low": low, "high": high, "best": min(values)}
    return {name: float(f"{x:.4g}") for name, x in rounded.items()} | {"repeats": len(values)}


def _run(function: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    start = clock()
    result = function()
    _wait(device)
    seconds = clock() - start
    del result  # freeing memory isn't timed
    return seconds


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
