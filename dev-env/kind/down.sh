#!/usr/bin/env bash
# Takes away what demo.sh and up.sh have made: the claims first, so that no device is left.
set -euo pipefail
# shellcheck source=settings.sh
. "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/settings.sh"

command -v kind >/dev/null || { say "kind is not on PATH"; exit 1; }
if ! kind get clusters 2>/dev/null | grep -qx "$cluster"; then
    say "there is no cluster '$cluster'"
    exit 0
fi
for kind in ext4 xfs block; do
    kubectl "${context[@]}" delete --ignore-not-found --timeout=180s \
        --filename "$here/../k8s/examples/$kind.yaml"
done
# A device whose fs-core is gone would stay in this host's kernel.
for _ in $(seq 60); do
    held=$(kubectl "${context[@]}" get volumeattachments --output name)
    [ -n "$held" ] || break
    sleep 2
done
[ -z "$held" ] || { say "still attached, so nothing is taken away: $held"; exit 1; }
kind delete cluster --name "$cluster"
rm -rf "${disks:?}/luns" "$pki"
rmdir "$disks"
