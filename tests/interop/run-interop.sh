#!/bin/sh
# run-interop.sh [--script NAME] ARGUMENTS..: runs compare_transformers.py, or NAME, with $ESPALIER_INTEROP_PYTHON or an environment of its own.
# Exit 77 (skipped) when there is no such environment.
here=$(dirname "$0")
script=compare_transformers.py
if [ "${1:-}" = --script ]; then
    script=$2
    shift 2
fi
python="${ESPALIER_INTEROP_PYTHON:-}"
if [ -z "$python" ]; then
    # The comparison of training has peft beside the rest, or does without.
    python=""
    [ "$script" = compare_training.py ] && python=$("$here/make-venv.sh" --peft) || true
    [ -n "$python" ] || python=$("$here/make-venv.sh") || {
        echo "SKIPPED: no Python with transformers 5.23.0 (see above). Set ESPALIER_INTEROP_PYTHON to one, or go online once." >&2
        exit 77
    }
fi
[ -x "$python" ] || {
    echo "SKIPPED: ESPALIER_INTEROP_PYTHON ($python) is not an executable." >&2
    exit 77
}
exec "$python" "$here/$script" "$@"
