#!/bin/sh
# make-venv.sh NAME: makes (once) the Python environment of requirements-NAME.txt in the user's cache folder and prints the path of its
# interpreter. The folder's name carries the hash of the file, so a changed pin is a new environment. Exit 1 with a reason on stderr.
# ESPALIER_TORCH_INDEX: a package index with CPU builds of torch. Without it torch comes as pip is set up, which may be several GB of CUDA.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
requirements=$here/requirements-$1.txt
[ -r "$requirements" ] || { echo "$requirements is missing" >&2; exit 1; }
folder="${XDG_CACHE_HOME:-$HOME/.cache}/espalier/bench-$1-$(sha256sum "$requirements" | cut -c1-12)"
python="$folder/bin/python"

if [ -e "$folder/complete" ]; then
    echo "$python"
    exit 0
fi
command -v python3 >/dev/null || { echo "python3 was not found" >&2; exit 1; }
fail() { rm -rf "$folder"; echo "$1" >&2; exit 1; }
rm -rf "$folder"
mkdir -p "$(dirname "$folder")"
python3 -m venv "$folder" >&2 || fail "python3 -m venv failed (Debian: install python3-venv)"
pip() { "$python" -m pip install --quiet --disable-pip-version-check "$@" >&2; }
if [ -n "${ESPALIER_TORCH_INDEX:-}" ]; then
    pip --index-url "$ESPALIER_TORCH_INDEX" "$(grep '^torch==' "$requirements")" || fail "torch could not be installed from the given index"
fi
pip -r "$requirements" || fail "$requirements could not be installed"
touch "$folder/complete"
echo "$python"
