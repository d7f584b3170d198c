"""Plain forward of transformers on random tokens: what engine_bench is set beside. One JSON object.

peer_transformers.py MODEL fp32|bf16 [WINDOWS LENGTH ROUNDS THREADS]"""

import json
import resource
import sys
import time

import torch
from transformers import AutoModelForCausalLM


def main():
    model_path, dtype = sys.argv[1:3]
    windows, length, rounds, threads = (int(v) for v in (sys.argv[3:] + ["8", "512", "1", "2"][len(sys.argv) - 3:])[:4])
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    start = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(
        model_path, dtype={"fp32": torch.float32, "bf16": torch.bfloat16}[dtype], experts_implementation="eager")
    model.eval()
    load = time.perf_counter() - start
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(0, model.config.vocab_size, (windows, length), generator=generator)
    model(input_ids=ids[:1, :8])
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        output = model(input_ids=ids, use_cache=False)
        seconds.append(time.perf_counter() - start)
        del output
    middle = sorted(seconds)[len(seconds) // 2]
    print(json.dumps({
        "item": "forward", "load_seconds": load, "seconds": seconds, "median": middle,
        "tokens_per_second": windows * length / middle,
        "peak_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


if __name__ == "__main__":
    main()
