#!/bin/sh
# make-venv.sh [--harness|--peft]: makes (once) the Python environment of the interop tests in the user's cache and prints the path of its
# interpreter. With --harness it has lm-evaluation-harness too, in a folder of its own. With --peft it is a small one that sees the first
# one's packages and has peft beside them: what the comparison of training and tests/bench/compare_training.sh run in.
# Pinned: the reference must not move under the tests. CPU wheels only. Exit 1 with a reason on stderr when it cannot be made.
set -eu

torch=2.15.0
transformers=5.23.0
harness=0.4.13
datasets=5.2.0
peft=0.21.2
accelerate=1.15.0
psutil=7.2.2
name="interop-torch$torch-transformers$transformers"
modules='torch, transformers, safetensors, numpy'
if [ "${1:-}" = --harness ]; then
    name="$name-harness$harness"
    modules="$modules, lm_eval, datasets"
fi
if [ "${1:-}" = --peft ]; then
    base=$("$0") || exit 1
    name="$name-peft$peft"
    modules="$modules, peft"
fi
folder="${XDG_CACHE_HOME:-$HOME/.cache}/espalier/$name"
python="$folder/bin/python"

if [ -x "$python" ] && "$python" -c "import $modules" 2>/dev/null; then
    echo "$python"
    exit 0
fi
command -v python3 >/dev/null || { echo "python3 was not found" >&2; exit 1; }
rm -rf "$folder.partial"
mkdir -p "$(dirname "$folder")"
python3 -m venv "$folder.partial" >&2 || { echo "python3 -m venv failed (Debian: install python3-venv)" >&2; exit 1; }
fail() { rm -rf "$folder.partial"; echo "$1" >&2; exit 1; }
pip() { "$folder.partial/bin/python" -m pip install --quiet --disable-pip-version-check "$@" >&2; }
if [ "${1:-}" = --peft ]; then
    # peft says that it needs torch and transformers: they are those of the first environment.
    packages=$("$base" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    own=$("$folder.partial/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    echo "$packages" > "$own/interop.pth"
    pip --no-deps "peft==$peft" "accelerate==$accelerate" "psutil==$psutil" || fail "peft $peft could not be installed"
    rm -rf "$folder"
    mv "$folder.partial" "$folder"
    "$python" -c "import $modules" >&2 || { echo "the new environment does not import $modules" >&2; exit 1; }
    echo "$python"
    exit 0
fi
# The CPU build is 200 MB; where its index cannot be reached, PyPI's own build (several GB with CUDA) does as well.
pip --retries 0 --timeout 20 --index-url https://download.pytorch.org/whl/cpu "torch==$torch" ||
    pip "torch==$torch" || fail "torch $torch could not be installed"
pip "transformers==$transformers" safetensors numpy || fail "transformers $transformers could not be installed"
if [ "${1:-}" = --harness ]; then
    pip "lm_eval[hf]==$harness" "datasets==$datasets" "transformers==$transformers" "torch==$torch" ||
        fail "lm_eval $harness could not be installed"
fi
# A venv names its own folder in its scripts, not in the interpreter: only the interpreter is used from here on.
rm -rf "$folder"
mv "$folder.partial" "$folder"
"$python" -c "import $modules" >&2 || { echo "the new environment does not import $modules" >&2; exit 1; }
echo "$python"
