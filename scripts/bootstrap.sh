#!/usr/bin/env bash
# Installs the Debian packages that building, testing and the lab need and that are not there yet.
# Debian 12 and 13, as root or with sudo. Quick when nothing is missing. Fetches nothing else.
set -euo pipefail

# To build: a C toolchain, libclang for the bindings of libublk, OpenSSL.
# For the lab: QEMU, and what makes its root image. qemu-img also checks exported images.
# For the tests of the CSI driver: xfsprogs; of the scripts for Kubernetes: shellcheck.
packages=(
    ca-certificates
    clang
    debian-archive-keyring
    e2fsprogs
    gcc
    libc6-dev
    libclang-dev
    libssl-dev
    make
    mmdebstrap
    pkg-config
    qemu-system-x86
    qemu-utils
    shellcheck
    util-linux
    xfsprogs
)

say() { printf 'bootstrap: %s\n' "$*" >&2; }

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    say "this host has no apt: only Debian 12 and 13 are supported."
    say "Install the equivalents of: ${packages[*]}"
    exit 1
fi

missing=()
for package in "${packages[@]}"; do
    state=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        say "missing: ${missing[*]}"
        say "Run this as root, or install sudo."
        exit 1
    fi
    as_root=(sudo)
fi

say "installing ${missing[*]}"
"${as_root[@]}" apt-get update -q
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -q -y --no-install-recommends "${missing[@]}"
say "installed ${#missing[@]} packages"
