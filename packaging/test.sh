#!/usr/bin/env bash
# The same set-up as run.sh, then all fast tests. ESPALIER_TEST_LABELS narrows or widens the choice (a ctest label expression).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
packaging/build.sh
ctest --preset release ${ESPALIER_TEST_LABELS:+-L "$ESPALIER_TEST_LABELS"} "$@"
