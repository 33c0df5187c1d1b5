#!/usr/bin/env bash
# Whether this host can run Lunar in kind. Changes nothing; names everything that is missing.
#
# The nodes of kind are containers: they have the kernel of this host, and it has to have ublk.
set -euo pipefail
# shellcheck source=settings.sh
. "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/settings.sh"

root=${LUNAR_PREFLIGHT_ROOT:-}
missing=()

has_ublk() {
    [ -e "$root/dev/ublk-control" ] && return
    [ -d "$root/sys/module/ublk_drv" ] && return
    find "$root/lib/modules/$(uname -r)" -name 'ublk_drv.ko*' 2>/dev/null | grep -q .
}

for program in docker helm kind kubectl lunar; do
    command -v "$program" >/dev/null || missing+=("$program is not on PATH")
done
if ! has_ublk; then
    missing+=("the kernel $(uname -r) has no ublk (module ublk_drv, CONFIG_BLK_DEV_UBLK): boot one \
that has it, on Debian that of backports (apt-get install -t trixie-backports linux-image-amd64), \
then modprobe ublk_drv")
elif [ ! -e "$root/dev/ublk-control" ]; then
    missing+=("the module ublk_drv is not loaded: modprobe ublk_drv")
fi
disabled=$(cat "$root/proc/sys/kernel/io_uring_disabled" 2>/dev/null || echo 0)
[ "$disabled" -lt 2 ] ||
    missing+=("kernel.io_uring_disabled is $disabled: sysctl -w kernel.io_uring_disabled=1")
[ -n "${LUNAR_SIDECAR_REGISTRY:-}" ] ||
    missing+=("LUNAR_SIDECAR_REGISTRY is not set: the registry of the Kubernetes project, or a \
mirror of it, from which nodes pull the sidecars")
if command -v docker >/dev/null && ! docker info >/dev/null 2>&1; then
    missing+=("no Docker engine answers: start it, or see that you may use it")
fi

[ ${#missing[@]} -gt 0 ] || { say "this host is ready"; exit 0; }
say "this host cannot run Lunar in kind, and nothing was changed:"
printf '  - %s\n' "${missing[@]}" >&2
exit 1
