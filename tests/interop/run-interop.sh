#!/bin/sh
# run-interop.sh TOOL RESOURCES FIXTURES..: runs compare_transformers.py (or $ESPALIER_INTEROP_SCRIPT) with $ESPALIER_INTEROP_PYTHON or an environment of its own.
# Exit 77 (skipped) when there is no such environment.
here=$(dirname "$0")
python="${ESPALIER_INTEROP_PYTHON:-}"
if [ -z "$python" ]; then
    python=$("$here/make-venv.sh") || {
        echo "SKIPPED: no Python with transformers 5.23.0 (see above). Set ESPALIER_INTEROP_PYTHON to one, or go online once." >&2
        exit 77
    }
fi
[ -x "$python" ] || {
    echo "SKIPPED: ESPALIER_INTEROP_PYTHON ($python) is not an executable." >&2
    exit 77
}
exec "$python" "$here/${ESPALIER_INTEROP_SCRIPT:-compare_transformers.py}" "$@"
