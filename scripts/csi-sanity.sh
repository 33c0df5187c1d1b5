#!/usr/bin/env bash
# Installs csi-sanity, the conformance suite of the CSI project, with the Go that is on this host.
# Quick when it is there. Without Go it says so loudly and ends well; with LUNAR_REQUIRE_GO=1 it
# fails.
set -euo pipefail

version=v5.4.0
tools=${1:?usage: csi-sanity.sh DIRECTORY}
say() { printf 'csi-sanity: %s\n' "$*" >&2; }

if [ -x "$tools/csi-sanity-$version" ]; then
    ln -sf "csi-sanity-$version" "$tools/csi-sanity"
    exit 0
fi
PATH=$PATH:/usr/local/go/bin
if ! command -v go >/dev/null; then
    say "NOTE: there is no Go on this host, so the conformance suite of CSI is NOT RUN."
    say "Install Go (Debian: apt-get install golang) and run this again."
    [ "${LUNAR_REQUIRE_GO:-}" != 1 ] || exit 1
    exit 0
fi
mkdir -p "$tools"
tools=$(cd "$tools" && pwd)
say "installing $version with $(go version)"
# Static: it runs in the lab's machine.
module=github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity
install() { CGO_ENABLED=0 GOBIN=$tools go install "$module@$version"; }
# A mirror that does not answer at once is no reason to leave it out.
install || { sleep 5; install; } || { sleep 30; install; }
mv "$tools/csi-sanity" "$tools/csi-sanity-$version"
ln -sf "csi-sanity-$version" "$tools/csi-sanity"
