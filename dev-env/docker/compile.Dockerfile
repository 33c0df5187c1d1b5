# Compiles the programs for the base of the Dockerfile beside this one. The context is the repository.
# images.sh --compile copies them out of /programs.
ARG RUST_IMAGE=rust:1-slim-trixie
FROM ${RUST_IMAGE}
RUN ["apt-get", "update", "-q"]
RUN ["apt-get", "install", "-q", "-y", "--no-install-recommends", "clang", "libclang-dev", \
    "libssl-dev", "make", "pkg-config"]
WORKDIR /source
COPY . .
RUN ["cargo", "build", "--release", "--locked", "--workspace", "--bins"]
RUN ["install", "-D", "-t", "/programs", "target/release/metadata-service", \
    "target/release/fs-core", "target/release/csi-driver", "target/release/lunar"]
