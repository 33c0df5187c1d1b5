#!/usr/bin/env bash
# A cluster of three nodes in kind with Lunar, on two files that every node sees.
#
# Images: dev-env/docker/images.sh. All nodes have one kernel, so losing one is not what it is on
# machines of their own: this is for trying things, not for tests of fencing.
set -euo pipefail
# shellcheck source=settings.sh
. "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/settings.sh"
"$here/preflight.sh"

tag=${LUNAR_IMAGE_TAG:-0.1.0}

node() { # ROLE
    # Devices that fs-core makes appear in the host's /dev; what is mounted there is everybody's.
    cat <<CONFIG
  - role: $1
    extraMounts:
      - {hostPath: $disks/luns, containerPath: $in_nodes}
      - {hostPath: /dev, containerPath: /dev}
      - {hostPath: /lib/modules, containerPath: /lib/modules, readOnly: true}
CONFIG
}

configuration() {
    printf 'kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nnodes:\n'
    node control-plane
    node worker
    node worker
}

admin() {
    kubectl "${context[@]}" --namespace lunar exec lunar-admin -- lunar "$@"
}

mkdir -p "$disks/luns"
for lun in lun0 lun1; do
    [ -e "$disks/luns/$lun.raw" ] || truncate --size "$lun_size" "$disks/luns/$lun.raw"
done
configuration | kind create cluster --name "$cluster" --config -
# Pods of the demonstration run on all three.
kubectl "${context[@]}" taint nodes --all node-role.kubernetes.io/control-plane- || true
for image in metadata-service fs-core csi-driver; do
    kind load docker-image --name "$cluster" "lunar/$image:$tag"
done

helm upgrade --install lunar "$here/../helm/lunar" --kube-context "kind-$cluster" \
    --set namespace.create=true,namespace.name=lunar \
    --set "sidecars.registry=$LUNAR_SIDECAR_REGISTRY" \
    --set "images.metadataService.tag=$tag,images.fsCore.tag=$tag,images.csiDriver.tag=$tag" \
    --set "fsCore.scanLuns=false,fsCore.lunDirectories={$in_nodes}" \
    --set "fsCore.luns={$in_nodes/lun0.raw,$in_nodes/lun1.raw}" \
    --set snapshots.enabled=false
kubectl config use-context "kind-$cluster"
"$here/../k8s/make-secrets.sh" lunar "$pki"
for workload in statefulset/lunar-metadata daemonset/lunar-csi-node deployment/lunar-csi-controller
do
    kubectl "${context[@]}" --namespace lunar rollout status --timeout=300s "$workload"
done

kubectl "${context[@]}" apply --kustomize "$here/../k8s/admin"
kubectl "${context[@]}" --namespace lunar wait --timeout=120s --for=condition=Ready pod/lunar-admin
admin lun label "$in_nodes/lun0.raw"
admin lun label "$in_nodes/lun1.raw"
admin pool create tank "$in_nodes/lun0.raw" "$in_nodes/lun1.raw" --fencing none
say "ready: $here/demo.sh"
