#!/usr/bin/env bash
# Builds the images of Lunar's programs.
#
#   images.sh [--compile] [PROGRAMS]
#
# PROGRAMS is the folder of the programs (target/release). --compile builds them in a container
# first: right where this host's C library is newer than that of the base. Variables:
#   LUNAR_IMAGE_PREFIX  before the names (lunar)    LUNAR_IMAGE_TAG  their tag (the version)
#   BASE_IMAGE, RUST_IMAGE  other bases             DOCKER           docker, or podman
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(cd "$here/../.." && pwd)
docker=${DOCKER:-docker}
prefix=${LUNAR_IMAGE_PREFIX:-lunar}
programs=(metadata-service fs-core csi-driver lunar)
in_package='/^\[workspace.package\]/,/^\[/'
version=$(sed -n "$in_package"'s/^version = "\(.*\)"/\1/p' "$repository/Cargo.toml")
tag=${LUNAR_IMAGE_TAG:-$version}
revision=$(git -C "$repository" rev-parse HEAD 2>/dev/null || echo unknown)

say() { printf 'images: %s\n' "$*" >&2; }

command -v "$docker" >/dev/null || { say "$docker is not on PATH"; exit 1; }

context=$(mktemp -d)
container=
clean_up() {
    [ -z "$container" ] || "$docker" rm "$container" >/dev/null
    rm -rf "$context"
}
trap clean_up EXIT

if [ "${1:-}" = --compile ]; then
    arguments=()
    [ -z "${RUST_IMAGE:-}" ] || arguments+=(--build-arg "RUST_IMAGE=$RUST_IMAGE")
    "$docker" build --file "$here/compile.Dockerfile" --tag "$prefix/compiled:$tag" \
        "${arguments[@]}" "$repository"
    container=$("$docker" create "$prefix/compiled:$tag")
    "$docker" cp "$container:/programs/." "$context"
else
    from=${1:-${CARGO_TARGET_DIR:-$repository/target}/release}
    for program in "${programs[@]}"; do
        [ -x "$from/$program" ] || { say "$from/$program is not there: make build"; exit 1; }
        install -m 0755 "$from/$program" "$context/"
    done
fi
# Lines of the source for a backtrace are most of a program, and the build keeps them.
if command -v strip >/dev/null; then
    strip --strip-debug "${programs[@]/#/$context/}"
fi
install -m 0755 "$here/packages.sh" "$context/"

arguments=(--build-arg "VERSION=$version" --build-arg "REVISION=$revision")
[ -z "${BASE_IMAGE:-}" ] || arguments+=(--build-arg "BASE_IMAGE=$BASE_IMAGE")
for program in "${programs[@]}"; do
    "$docker" build --file "$here/Dockerfile" --target "$program" \
        --tag "$prefix/$program:$tag" "${arguments[@]}" "$context"
    say "$prefix/$program:$tag"
done
