#!/usr/bin/env bash
# Steps of low-rank adapters, Espalier beside PyTorch and peft: same model, rank and batch, in turn.
#
#   tests/bench/compare_training.sh [MODEL] [ROUNDS]      (default: the demo, 3)
#
# Environment: RANK, BATCH, LENGTH, STEPS, THREADS; BENCH (training_bench), PYTHON (an interpreter with torch, transformers and peft; default
# that of tests/interop/make-venv.sh --peft). Prints medians over the rounds, their spread, peaks of resident memory, and the load of the
# machine, without which the times say little.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
model=${1:-$here/../../resources/demo/espalier-demo-moe}
rounds=${2:-3}
rank=${RANK:-8} batch=${BATCH:-8} length=${LENGTH:-256} steps=${STEPS:-5} threads=${THREADS:-2}
bench=${BENCH:-$here/../../build/release/bin/training_bench}
python=${PYTHON:-$("$here/../interop/make-venv.sh" --peft)}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" - "$model" "$batch" "$length" > "$work/ids.json" <<'PY'
import json, random, sys
vocabulary = json.load(open(sys.argv[1] + "/config.json"))["vocab_size"]
draw = random.Random(7)
print(json.dumps([[draw.randrange(vocabulary) for _ in range(int(sys.argv[3]))] for _ in range(int(sys.argv[2]))]))
PY
uptime >&2
for round in $(seq "$rounds"); do
    "$bench" "$model" "$work/ids.json" "$rank" "$steps" "$threads" > "$work/espalier-$round.json"
    cut -c1-300 "$work/espalier-$round.json" >&2
    "$python" "$here/peer_peft.py" "$model" "$work/ids.json" "$rank" "$steps" "$threads" | tail -1 > "$work/peft-$round.json"
    cut -c1-300 "$work/peft-$round.json" >&2
done
uptime >&2
"$python" - "$work" "$rounds" <<'PY'
import json, statistics, sys
def read(who):
    return [json.load(open(f"{sys.argv[1]}/{who}-{r}.json")) for r in range(1, int(sys.argv[2]) + 1)]
own, peer = read("espalier"), read("peft")
for name, all in (("espalier", own), ("peft", peer)):
    rates = [one["tokens_per_second"] for one in all]
    print(f"{name:9} {statistics.median(rates):9.0f} tokens/s ({min(rates):.0f} to {max(rates):.0f}), peak "
          f"{max(one['peak_rss'] for one in all) / 2**20:7.0f} MiB, {all[0]['trained']} numbers trained, first loss {all[0]['losses'][0]:.4f}")
print(f"ratio     {statistics.median(o['tokens_per_second'] / p['tokens_per_second'] for o, p in zip(own, peer)):9.2f} times the speed, "
      f"{max(o['peak_rss'] for o in own) / max(p['peak_rss'] for p in peer):.2f} of the memory")
PY
