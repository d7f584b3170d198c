#!/bin/sh
# Makes (once) the Python environment of the interop tests in the user's cache and prints the path of its interpreter.
# Pinned: the reference must not move under the tests. CPU wheels only. Exit 1 with a reason on stderr when it cannot be made.
set -eu

torch=2.15.0
transformers=5.23.0
folder="${XDG_CACHE_HOME:-$HOME/.cache}/espalier/interop-torch$torch-transformers$transformers"
python="$folder/bin/python"

if [ -x "$python" ] && "$python" -c 'import torch, transformers, safetensors, numpy' 2>/dev/null; then
    echo "$python"
    exit 0
fi
command -v python3 >/dev/null || { echo "python3 was not found" >&2; exit 1; }
rm -rf "$folder.partial"
mkdir -p "$(dirname "$folder")"
python3 -m venv "$folder.partial" >&2 || { echo "python3 -m venv failed (Debian: install python3-venv)" >&2; exit 1; }
fail() { rm -rf "$folder.partial"; echo "$1" >&2; exit 1; }
pip() { "$folder.partial/bin/python" -m pip install --quiet --disable-pip-version-check "$@" >&2; }
# The CPU build is 200 MB; where its index cannot be reached, PyPI's own build (several GB with CUDA) does as well.
pip --retries 0 --timeout 20 --index-url https://download.pytorch.org/whl/cpu "torch==$torch" ||
    pip "torch==$torch" || fail "torch $torch could not be installed"
pip "transformers==$transformers" safetensors numpy || fail "transformers $transformers could not be installed"
# A venv names its own folder in its scripts, not in the interpreter: only the interpreter is used from here on.
rm -rf "$folder"
mv "$folder.partial" "$folder"
"$python" -c 'import torch, transformers, safetensors, numpy' >&2 || { echo "the new environment does not import torch" >&2; exit 1; }
echo "$python"
