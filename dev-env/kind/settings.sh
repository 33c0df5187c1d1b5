# What the scripts for kind share. Sourced.
# shellcheck shell=bash disable=SC2034 # whoever sources this uses them

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cluster=${LUNAR_KIND_NAME:-lunar}
# The files that are the LUNs, on a file system of this host that knows O_DIRECT.
disks=${LUNAR_KIND_DIR:-/var/tmp/lunar-$cluster}
lun_size=${LUNAR_KIND_LUN_SIZE:-8G}
in_nodes=/var/lib/lunar/luns
context=(--context "kind-$cluster")
pki=$disks/pki

say() { printf '%s: %s\n' "$(basename "$0" .sh)" "$*" >&2; }
