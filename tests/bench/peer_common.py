"""What the peers share: windows of token ids, and the line they print."""

import json
import resource
import sys
import time

import torch

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def setup(threads=2):
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)


def windows_of(path):
    """Windows of equal length, int64[windows, length]: the file that Espalier reads with --ids."""
    with open(path) as file:
        return torch.tensor(json.load(file), dtype=torch.int64)


def timed(work):
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def report(line):
    """The last line of stdout; peers may print what they like before it."""
    print(json.dumps({**line, "torch": torch.__version__, "peak_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


def arguments(usage, least):
    if len(sys.argv) <= least:
        raise SystemExit(usage)
    return sys.argv[1:]
