#!/usr/bin/env bash
# Makes an authority and certificates for an installed cluster, and the Secrets that its pods wait
# for. Run it again when nodes were added or certificates rotated: what is there is kept.
#
#   make-secrets.sh [NAMESPACE [FOLDER]]
#
# FOLDER (lunar-pki) gets the authority and its key. It is not for the cluster: keep it safe.
set -euo pipefail

namespace=${1:-lunar}
folder=${2:-lunar-pki}
service=(--namespace "$namespace" lunar-metadata-0)

say() { printf 'make-secrets: %s\n' "$*" >&2; }

for program in kubectl lunar; do
    command -v "$program" >/dev/null || { say "$program is not on PATH"; exit 1; }
done

# The cluster's id is made by the service at its first start; it listens on its own loopback then.
# The doctor finds fault with a container that is no node, and names the cluster all the same.
cluster_id() {
    kubectl wait --timeout=300s --for=jsonpath='{.status.phase}'=Running \
        --namespace "$namespace" pod/lunar-metadata-0 >/dev/null
    for _ in $(seq 30); do
        said=$(kubectl exec "${service[@]}" --container metadata-service -- lunar doctor || true)
        id=$(sed -n 's/.*, cluster \([0-9a-f]\{8\}-[0-9a-f-]\{27\}\).*/\1/p' <<<"$said")
        [ -z "$id" ] || { echo "$id"; return; }
        sleep 2
    done
}

issue() { # ROLE NAME
    [ -e "$folder/$2.crt" ] || lunar pki issue --dir "$folder" --role "$1" --name "$2" >&2
}

apply() { # NAME ARGUMENT...
    # By the server, so that no copy of the keys is kept in an annotation.
    kubectl create secret generic "$1" --namespace "$namespace" "${@:2}" \
        --dry-run=client --output yaml |
        kubectl apply --server-side --force-conflicts --filename - >&2
}

pair() { # SECRET NAME ARGUMENT...
    apply "$1" --from-file="ca.crt=$folder/ca.crt" --from-file="tls.crt=$folder/$2.crt" \
        --from-file="tls.key=$folder/$2.key" "${@:3}"
}

if [ ! -e "$folder/ca.key" ]; then
    say "waiting for the metadata service to make the cluster"
    id=$(cluster_id)
    [ -n "$id" ] || { say "the service in lunar-metadata-0 names no cluster: see its log"; exit 1; }
    lunar pki init --dir "$folder" --cluster "$id" >&2
fi

issue metadata meta1
issue csi-controller csi
issue admin admin
nodes=(--from-file="ca.crt=$folder/ca.crt")
while read -r node; do
    issue node "$node"
    nodes+=(--from-file="$node.crt=$folder/$node.crt" --from-file="$node.key=$folder/$node.key")
done < <(kubectl get nodes --output jsonpath='{range .items[*]}{.metadata.name}{"\n"}{end}')

is_new=true
kubectl get secret lunar-metadata-tls --namespace "$namespace" >/dev/null 2>&1 && is_new=false
apply lunar-node-tls "${nodes[@]}"
pair lunar-csi-controller-tls csi
pair lunar-admin-tls admin
pair lunar-metadata-tls meta1 --from-literal=config=/etc/lunar/metadata/service.toml

if [ "$is_new" = true ]; then
    say "starting the metadata service with its certificate"
    kubectl delete pod --namespace "$namespace" lunar-metadata-0 >&2
fi
say "done; $folder has the key of the authority: keep it off the cluster"
