#!/usr/bin/env bash
# Sets up, configures and builds the release preset; used by run.sh (with --programs: the two programs alone) and by test.sh (everything,
# the tests too). Further arguments: CMake options, e.g. -DESPALIER_WITH_MPI=ON; ESPALIER_CMAKE_OPTIONS holds more of them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
targets=(all)
if [ "${1:-}" = --programs ]; then
  targets=(espalier espalier-engine engine-documentation)
  shift
fi
packaging/setup.sh
# A compile job takes up to 2 GB: as many as memory allows, at most one per core.
memory_gib=$(awk '/MemAvailable/ {print int($2 / 1048576)}' /proc/meminfo)
jobs=$(nproc)
[ $((memory_gib / 2)) -ge "$jobs" ] || jobs=$((memory_gib / 2 > 0 ? memory_gib / 2 : 1))
build=build/release
log=$build/configure.log
mkdir -p "$build"
read -r -a options <<< "${ESPALIER_CMAKE_OPTIONS:-}"
cmake --preset release "${options[@]}" "$@" > "$log" 2>&1 || { cat "$log" >&2; exit 1; }
# What is left to do, in steps of about five seconds of one core.
steps=$(ninja -C "$build" -n "${targets[@]}" | grep -c '^\[' || true)
if [ "$steps" -gt 10 ]; then
  minutes=$(((steps * 5 / jobs + 59) / 60))
  echo "== building: $steps steps, very roughly $minutes min on $jobs cores (less where a compiler cache knows them)" >&2
fi
NINJA_STATUS="[%f/%t, %e s] " cmake --build --preset release --parallel "$jobs" --target "${targets[@]}"
