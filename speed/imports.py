"""Processor seconds that `import openset` and `openset --help` take, beside `import torch`.

python speed/imports.py
"""

import resource
import subprocess
import sys

TIMES = 5
"""Runs of each, of which the least counts."""

CODES = {
    "import torch": ("-c", "import torch"),
    "import openset": ("-c", "import torch, openset"),
    "every public name": (
        "-c",
        "import torch, openset; [getattr(openset, n) for n in openset.__all__]",
    ),
    "openset --help": ("-m", "openset", "--help"),
}


def seconds(*arguments: str) -> float:
    """The user and system time of one interpreter."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    for name, arguments in CODES.items():
        print(f"{name:20} {min(seconds(*arguments) for _ in range(TIMES)):.2f} s")
