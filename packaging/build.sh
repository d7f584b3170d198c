#!/usr/bin/env bash
# Sets up, configures and builds the release preset; used by run.sh and test.sh. Arguments: CMake options, e.g. -DESPALIER_BUILD_TESTS=OFF;
# ESPALIER_CMAKE_OPTIONS holds more of them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
packaging/setup.sh
# A compile job takes up to 2 GB: as many as memory allows, at most one per core.
memory_gib=$(awk '/MemAvailable/ {print int($2 / 1048576)}' /proc/meminfo)
jobs=$(nproc)
[ $((memory_gib / 2)) -ge "$jobs" ] || jobs=$((memory_gib / 2 > 0 ? memory_gib / 2 : 1))
log=build/release/configure.log
mkdir -p build/release
read -r -a options <<< "${ESPALIER_CMAKE_OPTIONS:-}"
cmake --preset release "${options[@]}" "$@" > "$log" 2>&1 || { cat "$log" >&2; exit 1; }
cmake --build --preset release --parallel "$jobs"
