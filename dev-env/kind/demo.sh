#!/usr/bin/env bash
# A claim of each kind and a pod that writes to it, reads it back and says so.
set -euo pipefail
# shellcheck source=settings.sh
. "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/settings.sh"
"$here/preflight.sh"

examples=$here/../k8s/examples
for kind in ext4 xfs block; do
    kubectl "${context[@]}" apply --filename "$examples/$kind.yaml"
done
for kind in ext4 xfs block; do
    kubectl "${context[@]}" wait --timeout=300s --for=condition=Ready "pod/demo-$kind"
    for _ in $(seq 60); do
        kubectl "${context[@]}" logs "demo-$kind" | grep -q "demo-$kind: ok" && break
        sleep 2
    done
    kubectl "${context[@]}" logs "demo-$kind" | grep "demo-$kind: ok"
done
echo "demo: ok"
