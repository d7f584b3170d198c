#!/usr/bin/env bash
# Installs what is missing to build Espalier: distribution packages (as root or through sudo, else the one line to run is printed)
# and libtorch, PyPI's torch wheel pinned by hash and unpacked into the user's cache folder. Safe to run again: a second run takes
# under a second. Debian 12 and 13, Ubuntu 24.04. With --cuda libtorch comes with its CUDA libraries, for builds with ESPALIER_WITH_CUDA.
set -euo pipefail
case "${1:-}" in
  "") variant=cpu size="540 MB" ;;
  --cuda) variant=cuda size="2.5 GB" ;;
  *) echo "usage: packaging/setup.sh [--cuda]" >&2; exit 2 ;;
esac
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

packages=(
  g++ cmake ninja-build ccache git pkg-config ca-certificates python3-pip
  nlohmann-json3-dev libfmt-dev libcli11-dev libssl-dev libhdf5-dev libpcre2-dev libicu-dev
  qt6-base-dev qt6-svg-dev libqt6svg6 libqcustomplot-dev fonts-dejavu-core
  libgtest-dev libgmock-dev
)
missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$status" = installed ] || missing+=("$package")
done

if [ ${#missing[@]} -gt 0 ]; then
  as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    if command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
      as_root=(sudo)
    else
      echo "Espalier needs packages that are not installed. As root, run:" >&2
      echo "  apt-get update && apt-get install --no-install-recommends ${missing[*]}" >&2
      exit 1
    fi
  fi
  echo "== installing ${missing[*]}" >&2
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
fi

# libtorch: the wheel's tags are chosen explicitly, so the system's Python version does not matter.
version=2.15.0
cache=${XDG_CACHE_HOME:-$HOME/.cache}/espalier
target=$cache/libtorch-$version-$variant
if [ -z "${LIBTORCH_ROOT:-}" ] && [ ! -e "$target/torch/lib/libtorch_cpu.so" ]; then
  echo "== fetching libtorch $version ($size, once)" >&2
  mkdir -p "$cache"
  rm -rf "$target.partial"
  python3 -m pip install --quiet --disable-pip-version-check --no-deps --no-compile --no-cache-dir --root-user-action=ignore \
    --only-binary=:all: --implementation cp --python-version 3.11 --abi cp311 --abi none \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_25_x86_64 \
    --platform manylinux_2_18_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
    --require-hashes -r "$here/libtorch-$variant.txt" --target "$target.partial"
  # What a build never opens: the wheel's Python and, for the CPU, its CUDA half.
  rm -f "$target.partial"/torch/lib/libtorch_python.so
  [ $variant = cuda ] || rm -f "$target.partial"/torch/lib/libtorch_{cuda,cuda_linalg,nvshmem}.so
  mv "$target.partial" "$target"
fi
