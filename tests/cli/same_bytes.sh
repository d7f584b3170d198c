#!/usr/bin/env bash
# Whether two builds of espalier-engine make the same of the same input: profiles, plans, exports and the JSON of every answer, byte for byte,
# on the demo and on the committed model fixtures. Equal means equal but for the fields named below.
#
#   tests/cli/same_bytes.sh OLD_ENGINE NEW_ENGINE [WORK_FOLDER]
#
# Exit code 0: the same. 1: not; what differs is printed, and both answers lie in the work folder (kept when it was named). OLD_ENGINE may be "-"
# where WORK_FOLDER holds the old answers of an earlier run.
set -uo pipefail

if [ $# -lt 2 ]; then
    sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
old=$1
[ "$old" = - ] || old=$(realpath "$1")
new=$(realpath "$2")
here=$(realpath "$(dirname "$0")/..")
demo=$here/../resources/demo/espalier-demo-moe
texts=$here/../resources/demo
if [ $# -ge 3 ]; then work=$3; mkdir -p "$work"; else work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; fi
work=$(realpath "$work")
differences=0

# Fields that are about the run and not about the result.
same_json() {
    python3 - "$1" "$2" <<'PY'
import json, sys
NOT_COMPARED = {"seconds", "wall_seconds", "cpu_seconds", "peak_rss_bytes", "peak_resident_bytes", "tokens_per_second", "elapsed", "engine",
                "version", "created", "started", "finished",
                # What the entries of methods say since they are not recognised by their ids.
                "runs_model", "needs_curves", "searches", "baseline", "answers", "solves_with", "source"}
def clean(value):
    if isinstance(value, dict):
        return {k: clean(v) for k, v in value.items() if k not in NOT_COMPARED}
    if isinstance(value, list):
        return [clean(v) for v in value]
    if isinstance(value, str):
        return value.replace("/old/", "/").replace("/new/", "/")
    return value
def first_difference(a, b, path=""):
    if type(a) is not type(b):
        return f"{path}: {str(a)[:80]} / {str(b)[:80]}"
    if isinstance(a, dict):
        for k in sorted(a.keys() | b.keys()):
            if k not in a or k not in b:
                return f"{path}.{k}: only in the {'new' if k in b else 'old'} one"
            if d := first_difference(a[k], b[k], f"{path}.{k}"):
                return d
        return None
    if isinstance(a, list):
        if len(a) != len(b):
            return f"{path}: {len(a)} / {len(b)} entries"
        for i, (x, y) in enumerate(zip(a, b)):
            if d := first_difference(x, y, f"{path}[{i}]"):
                return d
        return None
    return None if a == b else f"{path}: {str(a)[:80]} / {str(b)[:80]}"
a, b = (clean(json.load(open(name))) for name in sys.argv[1:3])
if d := first_difference(a, b):
    print("   ", d)
    sys.exit(1)
PY
}

differ() {
    echo "DIFFERENT  $1"
    differences=$((differences + 1))
}

# answer NAME ARGUMENTS..: both engines with --json, in folders of their own; exit codes and answers. @ stands for the own folder.
answer() {
    local name=$1 codes=() side
    shift
    for side in old new; do
        mkdir -p "$work/$side"
        if [ "$side" = old ] && [ "$old" = - ]; then
            codes+=("$(cat "$work/old/$name.code")")
            continue
        fi
        (cd "$work/$side" && "${!side}" "${@//@/$work/$side}" --json --quiet >"$name.json" 2>"$name.err")
        codes+=($?)
        echo "${codes[-1]}" >"$work/$side/$name.code"
    done
    if [ "${codes[0]}" != "${codes[1]}" ]; then
        differ "$name: exit codes ${codes[*]}"
        tail -n 2 "$work/old/$name.err" "$work/new/$name.err"
    elif ! same_json "$work/old/$name.json" "$work/new/$name.json"; then
        differ "$name: the answer"
    else
        echo "same       $name (exit ${codes[0]})"
    fi
}

# files NAME..: the same bytes in both folders; folders with everything in them.
files() {
    local name
    for name in "$@"; do
        if [ ! -e "$work/old/$name" ] && [ ! -e "$work/new/$name" ]; then continue; fi
        if ! diff -rq "$work/old/$name" "$work/new/$name" >"$work/diff" 2>&1; then
            differ "$name: the file"
            head -n 3 "$work/diff"
        fi
    done
}

plan() {
    local name=$1
    shift
    answer "plan-$name" plan "$demo" --profile @/demo.h5 --out @/"$name".json --force "$@"
    files "$name".json
}

answer profile profile "$demo" --text "$texts/calibration.txt" --windows 8 --gram-tokens 1024 --out @/demo.h5 --force
if command -v h5diff >/dev/null; then
    h5diff --exclude-path=/meta/seconds --exclude-attribute=/seconds "$work/old/demo.h5" "$work/new/demo.h5" >"$work/diff" 2>&1 || {
        differ "demo.h5: the profile"
        head -n 5 "$work/diff"
    }
fi
answer score score @/demo.h5
answer methods methods

small="--param select.population=20 --param select.generations=10"
plan importance --prune 25%
plan uniform --prune 25% --allocate uniform --uniform --score reap
plan global --keep 70% --allocate global --score ean_mean
plan coverage --keep 70% --allocate coverage
plan inverse --keep 70% --allocate inverse
plan exact --prune 25% --allocate exact --select greedy
plan greedy --prune 30% --select greedy
plan genetic --prune 25% --select genetic --kt 2,2 $small
plan locked --prune 20% --select genetic $small --lock 1 --protect 2:3
plan ranks --prune 25% --rank-average auto
plan ranks-uniform --prune 10% --rank-rule uniform --decompose 30% --factors svd
plan ranks-exact --prune 10% --rank-rule exact --decompose 30%
plan on-ranks --prune 30% --from @/ranks.json --select greedy
plan size --size 12MiB
plan size-uniform --size 12MiB --allocate uniform --uniform
plan size-ranks --size 10MiB --rank-average auto --select genetic $small
plan size-joint --size 10MiB --allocate exact --rank-rule exact
plan size-exact --size 12MiB --allocate exact --select greedy
plan verified --prune 25% --allocate verified --param allocate.passes=2 --windows 4
plan size-verified --size 12MiB --allocate verified --param allocate.passes=2 --windows 4
plan size-verified-rule --size 10MiB --allocate verified --rank-rule moe-i2 --param allocate.passes=2 --windows 4
plan size-impossible --size 4MiB

for name in importance genetic ranks ranks-uniform size-verified; do
    answer "evaluate-$name" evaluate "$demo" --plan @/"$name".json --profile @/demo.h5 --text "$texts/validation.txt" --windows 4
    answer "estimate-$name" estimate "$demo" --plan @/"$name".json --profile @/demo.h5
done
for name in uniform ranks; do
    answer "export-$name" export "$demo" --plan @/"$name".json --profile @/demo.h5 --out @/exported-"$name" --force
    files exported-"$name"
    answer "verify-$name" verify @/exported-"$name" --source "$demo" --profile @/demo.h5
done
for preset in moe-i2 verified; do
    answer "compress-$preset" compress "$demo" --preset "$preset" --text "$texts/calibration.txt" --windows 4 \
        --out @/compressed-"$preset" --force $small \
        $([ $preset = verified ] && echo --size 12MiB --param allocate.passes=2)
    files compressed-"$preset" compressed-"$preset".work/plan.json
done

for config in "$here"/fixtures/model/checkpoints/*/config.json; do
    model=$(dirname "$config")
    name=$(basename "$model")
    [ -n "$(ls "$model"/*.safetensors 2>/dev/null)" ] || continue
    ids=$work/$name.ids.json
    python3 -c "print([[(7 * i + 3) % 48 for i in range(64)]])" >"$ids"
    answer "inspect-$name" inspect "$model"
    answer "profile-$name" profile "$model" --ids "$ids" --window-length 16 --out @/"$name".h5 --force
    answer "plan-$name" plan "$model" --profile @/"$name".h5 --out @/"$name".json --force --prune 25% --select greedy
    files "$name".json
    answer "evaluate-$name" evaluate "$model" --plan @/"$name".json --profile @/"$name".h5 --ids "$ids" --window-length 16
    answer "export-$name" export "$model" --plan @/"$name".json --profile @/"$name".h5 --out @/exported-"$name" --force
    files exported-"$name"
done

if [ $differences -gt 0 ]; then
    echo "$differences differences"
    exit 1
fi
echo "The two engines make the same."
