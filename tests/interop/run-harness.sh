#!/bin/sh
# run-harness.sh ENGINE RESOURCES FIXTURES: runs compare_harness.py with $ESPALIER_HARNESS_PYTHON or an environment of its own.
# Exit 77 (skipped) when there is no such environment.
here=$(dirname "$0")
python="${ESPALIER_HARNESS_PYTHON:-}"
if [ -z "$python" ]; then
    python=$("$here/make-venv.sh" --harness) || {
        echo "SKIPPED: no Python with lm_eval 0.4.13 (see above). Set ESPALIER_HARNESS_PYTHON to one, or go online once." >&2
        exit 77
    }
fi
[ -x "$python" ] || {
    echo "SKIPPED: ESPALIER_HARNESS_PYTHON ($python) is not an executable." >&2
    exit 77
}
exec "$python" "$here/compare_harness.py" "$@"
