#!/usr/bin/env bash
# Same model, same calibration text, same bytes: what each part of MoE-I2 is worth, on text that no search has seen.
#
#   tests/bench/compare_methods.sh [ENGINE] [OUT]        (default: build/release/bin/espalier-engine, build/bench/methods)
#
# The first row sets the budget (25 % of the experts removed, automatic ranks); every other plan is the largest of its kind that is not
# larger. Writes OUT/methods.md and OUT/methods.json: size, perplexity, and the difference of the NLL per token to the dense model and to
# the first row, paired by window, with one standard error; a difference beyond two of them is called significant. Needs jq.
# Environment: MODEL, CALIBRATION, VALIDATION (files), LENGTH, CALIBRATION_WINDOWS, VALIDATION_WINDOWS, SEARCH_WINDOWS, PRUNE.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
engine=${1:-build/release/bin/espalier-engine}
out=${2:-build/bench/methods}
model=${MODEL:-resources/demo/espalier-demo-moe}
calibration=${CALIBRATION:-resources/demo/calibration.txt}
validation=${VALIDATION:-resources/demo/validation.txt}
length=${LENGTH:-256}
windows=${CALIBRATION_WINDOWS:-96}
search_windows=${SEARCH_WINDOWS:-32}
check_windows=${VALIDATION_WINDOWS:-128}
prune=${PRUNE:-25%}
command -v jq >/dev/null || { echo "compare_methods.sh needs jq." >&2; exit 1; }
mkdir -p "$out"

verb() { # NAME ARGUMENTS..: one verb, its JSON in $out/NAME.json
  local name=$1
  shift
  echo "== $name: espalier-engine $*" >&2
  "$engine" "$@" --json --quiet > "$out/$name.json"
}

profile=$out/profile.h5
verb profile profile "$model" --text "$calibration" --windows "$windows" --window-length "$length" --collect +curves,factors,moments,gradients \
  --out "$profile" --force

text=(--text "$calibration" --windows "$search_windows" --window-length "$length")
ranks=(--rank-average auto)
paper=(--allocate importance --select genetic --kt 3,3 "${ranks[@]}")
plan() { # NAME TARGET.. : a plan, and its perplexity on the locked text
  local name=$1
  shift
  verb "plan-$name" plan "$model" --profile "$profile" "$@" --out "$out/$name.plan" --force
  verb "evaluate-$name" evaluate "$model" --text "$validation" --windows "$check_windows" --window-length "$length" --plan "$out/$name.plan" \
    --profile "$profile" --against dense
}

plan moe-i2 --prune "$prune" "${text[@]}" "${paper[@]}"
bytes=$(jq .bytes "$out/plan-moe-i2.json")
size=(--size "$bytes")
names=(moe-i2 uniform plain-svd no-kt no-ga no-ranks-uniform exact verified search dropped constants weighted-constants mone mone-constants layer
  moe-i2-mended search-mended dropped-mended)
titles=(
  "MoE-I² (damped budgets, genetic search, KT 3,3, ranks by importance, whitened)"
  "uniform counts, ranking by REAP, uniform ranks, plain SVD"
  "MoE-I², plain SVD instead of whitened"
  "MoE-I², no receptive field"
  "MoE-I², ranking instead of the genetic search, no receptive field"
  "MoE-I², uniform ranks"
  "exact solver: counts and ranks from one byte budget"
  "verified counts, genetic search, ranks by importance, whitened"
  "search for the size: counts and ranks together, measured"
  "no ranks: dropped, by leave-one-out"
  "no ranks: constants in place of the dropped, by leave-one-out"
  "no ranks: weighted constants, by leave-one-out"
  "no ranks: dropped, by MoNE's score"
  "no ranks: weighted constants, by MoNE's score"
  "no ranks: the most similar decoder layer left out, the rest dropped by leave-one-out"
  "MoE-I², mended by least squares"
  "search for the size, mended by least squares"
  "no ranks: dropped, by leave-one-out, mended by least squares"
)
plan uniform "${size[@]}" --allocate uniform --score reap --select ranking "${ranks[@]}" --rank-rule uniform --factors svd
plan plain-svd "${size[@]}" "${text[@]}" "${paper[@]}" --factors svd
plan no-kt "${size[@]}" --allocate importance --select genetic "${ranks[@]}"
plan no-ga "${size[@]}" --allocate importance --select ranking "${ranks[@]}"
plan no-ranks-uniform "${size[@]}" "${text[@]}" "${paper[@]}" --rank-rule uniform
plan exact "${size[@]}" --allocate exact "${ranks[@]}" --rank-rule exact
plan verified "${size[@]}" "${text[@]}" --allocate verified --select genetic "${ranks[@]}"
ranked=("${size[@]}" --select ranking)
plan dropped "${ranked[@]}"
plan constants "${ranked[@]}" --dropped constant
plan weighted-constants "${ranked[@]}" --dropped weighted-constant
plan mone "${ranked[@]}" --score mone
plan mone-constants "${ranked[@]}" --score mone --dropped weighted-constant
plan layer "${ranked[@]}" --drop-similar-layers 1
plan search "${size[@]}" "${text[@]}" --allocate verified --select genetic

# On all calibration windows; every eighth of them judges.
mended() { # NAME : the plan NAME with new numbers, under the same description
  verb "recover-$1" recover "$model" --plan "$out/$1.plan" --profile "$profile" --text "$calibration" --windows "$windows" --window-length "$length" \
    --out "$out/$1-mended.plan" --force
  jq -s '.[0] + {seconds: .[1].seconds, peak_rss_bytes: .[1].peak_rss_bytes}' "$out/plan-$1.json" "$out/recover-$1.json" > "$out/plan-$1-mended.json"
  verb "evaluate-$1-mended" evaluate "$model" --text "$validation" --windows "$check_windows" --window-length "$length" \
    --plan "$out/$1-mended.plan" --profile "$profile" --against dense
}
mended moe-i2
mended search
mended dropped

for name in "${names[@]}"; do
  [ "$name" = moe-i2 ] && continue
  verb "against-$name" evaluate "$model" --text "$validation" --windows "$check_windows" --window-length "$length" --plan "$out/$name.plan" \
    --profile "$profile" --against "$out/moe-i2.plan"
done

for i in "${!names[@]}"; do
  name=${names[$i]}
  against=$out/against-$name.json
  [ -e "$against" ] || against=/dev/null
  jq -n --arg name "$name" --arg title "${titles[$i]}" \
    --slurpfile plan "$out/plan-$name.json" --slurpfile dense "$out/evaluate-$name.json" --slurpfile other "$against" '
    {name: $name, title: $title, bytes: $plan[0].bytes, kept: ($plan[0].kept | map(length)), ppl: $dense[0].ppl,
     to_dense: $dense[0].delta, to_first: ($other[0].delta // null), plan_seconds: $plan[0].seconds, plan_peak_bytes: $plan[0].peak_rss_bytes}'
done | jq -s . > "$out/methods.json"

jq -r '
  def fixed($n): . as $x | (if $x < 0 then "−" else "" end) as $sign | ($x | fabs * pow(10; $n) | round | tostring) as $digits
    | (if ($digits | length) <= $n then ("0" * ($n + 1 - ($digits | length))) + $digits else $digits end) as $padded
    | $sign + $padded[:-$n] + "." + $padded[-$n:];
  def signed($n): (if . > 0 then "+" else "" end) + fixed($n);
  def verdict: if . == null then "" elif (.nll | fabs) > 2 * .se then (if .nll > 0 then "worse" else "better" end) else "not significant" end;
  "| plan | MiB | kept per layer | perplexity | Δ NLL to dense | Δ NLL to the first row | | s | peak GiB |", "|---|---|---|---|---|---|---|---|---|",
  (.[] | "| \(.title) | \(.bytes / 1048576 | fixed(2)) | \(.kept | map(tostring) | join(" ")) | \(.ppl | fixed(2)) | \(.to_dense.nll | signed(4)) ± \(.to_dense.se | fixed(4)) | "
    + (if .to_first then "\(.to_first.nll | signed(4)) ± \(.to_first.se | fixed(4))" else "" end)
    + " | \(.to_first | verdict) | \(.plan_seconds | fixed(1)) | \(.plan_peak_bytes / 1073741824 | fixed(2)) |")' "$out/methods.json" > "$out/methods.md"
cat "$out/methods.md"
