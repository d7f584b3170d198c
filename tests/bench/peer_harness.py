"""`espalier-engine tasks` beside lm-evaluation-harness on the same questions, in turn: seconds of each round and their ratio. One JSON object.

peer_harness.py ENGINE RESOURCES [ROUNDS BATCH [LIMIT]]

The engine's seconds are those of the whole process, start and weights included; the harness's those of its evaluation alone, the model
already loaded. The demo's file of endings has HellaSwag's form. Both fp32, on the same number of threads; accuracies are compared, so a
fast wrong answer shows. The interpreter is one with lm_eval (tests/interop/make-venv.sh --harness)."""

import json
import os
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "interop"))
import harness_tasks as harness  # noqa: E402
import torch  # noqa: E402


def main():
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    engine, resources = sys.argv[1:3]
    rounds, batch, limit = (int(v) for v in (sys.argv[3:] + ["3", "16", "0"][len(sys.argv) - 3:])[:3])
    threads = min(2, os.cpu_count() or 1)
    torch.set_num_threads(threads)
    model = os.path.join(resources, "demo", "espalier-demo-moe")
    data = os.path.join(resources, "demo", "tasks")
    seconds = {"espalier": [], "harness": []}
    with tempfile.TemporaryDirectory() as scratch:
        yaml = os.path.join(scratch, "yaml")
        os.mkdir(yaml)
        harness.write_tasks(yaml, {"endings": ("hellaswag", os.path.join(data, "endings.jsonl"))})
        os.environ["XDG_CACHE_HOME"] = os.path.join(scratch, "cache")
        command = [engine, "tasks", model, "--data", data, "--tasks", "endings", "--dtype", "fp32", "--threads", str(threads), "--json"]
        peer = harness.load(model, batch)
        for _ in range(rounds):
            start = time.perf_counter()
            told = subprocess.run(command + (["--limit", str(limit)] if limit else []), capture_output=True, text=True, check=True)
            seconds["espalier"].append(time.perf_counter() - start)
            start = time.perf_counter()
            result = harness.evaluate(peer, yaml, ["endings"], limit or None)
            seconds["harness"].append(time.perf_counter() - start)
            mine = json.loads(told.stdout)["tasks"]["endings"]
            theirs = result["results"]["endings"]
            for metric in ("acc", "acc_norm"):
                if abs(mine[metric] - theirs[f"{metric},none"]) > 1e-12:
                    raise SystemExit(f"{metric}: {mine[metric]}, the harness {theirs[f'{metric},none']}")
    ratios = sorted(b / a for a, b in zip(seconds["espalier"], seconds["harness"]))
    print(json.dumps({"item": "tasks", "questions": mine["items"], "batch": batch, "threads": threads, **seconds,
                      "ratio": ratios[len(ratios) // 2], "ratio_low": ratios[0], "ratio_high": ratios[-1]}))


if __name__ == "__main__":
    main()
