#!/usr/bin/env bash
# Installs what is missing, builds Espalier and opens it on the demo model. Without a display it does the same job from the command
# line (inspect, profile, plan, evaluate, export, verify) and leaves the results in build/demo: the exported checkpoint, a report and
# a picture of the window.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
packaging/build.sh --programs
bin=$PWD/build/release/bin

if [ -n "${DISPLAY:-}${WAYLAND_DISPLAY:-}" ]; then
  exec "$bin/espalier" --demo "$@"
fi

demo=$PWD/resources/demo
model=$demo/espalier-demo-moe
out=$PWD/build/demo
mkdir -p "$out"
report=$out/report.txt
: > "$report"
step() {
  echo
  echo "== espalier-engine $*"
  "$bin/espalier-engine" "$@"
}
{
  echo "No display found: the demo runs from the command line. Results: $out"
  step inspect "$model"
  step profile "$model" --text "$demo/calibration.txt" --windows 96 --window-length 256 --out "$out/profile.h5" --force
  step plan "$model" --profile "$out/profile.h5" --score leave-one-out --allocate importance --prune 25% --out "$out/plan.json" --force
  step evaluate "$model" --text "$demo/validation.txt" --windows 64 --window-length 256 --plan "$out/plan.json" --against dense
  step export "$model" --plan "$out/plan.json" --flavor factored --out "$out/export" --force
  step verify "$out/export" --source "$model" --plan "$out/plan.json" --text "$demo/validation.txt" --windows 8 --window-length 256
} 2> >(tee -a "$report" >&2) | tee -a "$report"
if QT_QPA_PLATFORM=offscreen "$bin/espalier" --demo --screenshot "$out/window.png" --after ready; then
  echo
  echo "Report: $report    Window: $out/window.png    Checkpoint: $out/export"
fi
