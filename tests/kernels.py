"""Run the numerical tests under the kernels and numbers of threads of other machines.

    python -m tests.kernels

PyTorch picks its kernels by the processor, MKL its own, and both add in another order with other
numbers of threads. A result must not depend on that beyond its stated tolerance. Each kind of
kernel runs with one thread and with two, once with each mode of MKL; what the processor lacks is
left out.
"""

import os
import subprocess
import sys
import time

TESTS = (
    "tests/core/test_spectrum.py",
    "tests/core/test_leverage.py",
    "tests/pruners/test_replay.py",
    "tests/pruners/test_methods.py",
)
LEVELS = ("default", "avx2", "avx512")  # ascending
# kernels of PyTorch, MKL's in its most compatible mode, threads
SETTINGS = (
    ("default", True, 1),
    ("default", False, 2),
    ("avx2", False, 1),
    ("avx2", True, 2),
    ("avx512", True, 1),
    ("avx512", False, 2),
)
TELL = "import torch; print(torch.backends.cpu.get_cpu_capability())"


def capability(**changes: str) -> str:
    """Say which kernels PyTorch takes, by default or where the environment asks for some."""
    env = {k: v for k, v in os.environ.items() if k != "ATEN_CPU_CAPABILITY"} | changes
    told = subprocess.run([sys.executable, "-c", TELL], env=env, capture_output=True, text=True)
    return told.stdout.strip().lower()


def main() -> int:
    """Run each setting; return 1 if a test failed in any."""
    best, failed = capability(), []
    for level, compatible, threads in SETTINGS:
        name = f"{level}, MKL {'compatible' if compatible else 'native'}, {threads} thread(s)"
        if best in LEVELS and LEVELS.index(level) > LEVELS.index(best):
            print(f"{name}: left out, this processor has {best}", flush=True)
            continue
        asked = {"ATEN_CPU_CAPABILITY": level, "OMP_NUM_THREADS": str(threads)}
        asked |= {"MKL_CBWR": "COMPATIBLE"} if compatible else {}
        if (taken := capability(**asked)) != level:
            print(f"{name}: PyTorch takes {taken} all the same", flush=True)
            failed.append(name)
            continue
        print(f"{name} ...", flush=True)
        start = time.perf_counter()
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS]
        if subprocess.run(command, env=os.environ | asked).returncode:
            failed.append(name)
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    print(f"failed: {failed}" if failed else "no setting changed a result")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
