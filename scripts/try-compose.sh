#!/bin/sh
# Builds the image, runs each profile of compose.yaml, and pulls an image through each. For machines
# that reach no container registry: the base images are made from Debian's packages, and the upstream
# is Debian's docker-registry in a container of its own.
#
#   sh scripts/try-compose.sh [FOLDER]      FOLDER keeps the base system; target/compose by default
#
# Needs root, Rust by rustup, and from Debian: podman netavark aardvark-dns debootstrap skopeo curl,
# and podman-compose 1.1 or later (python3 -m venv, pip install podman-compose) in PATH.
set -eu
cd "$(dirname "$0")/.."
folder=${1:-target/compose}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
step() { printf '\n== %s\n' "$*"; }
fail() {
    printf 'try-compose.sh: %s\n' "$*" >&2
    exit 1
}
for program in podman podman-compose debootstrap skopeo curl; do
    command -v "$program" >/dev/null || fail "$program is missing; see the head of this script"
done

# Limits that a container may set without further rights, and names for containers.
cat >"$folder/containers.conf" <<'END'
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[network]
network_backend = "netavark"
END
export CONTAINERS_CONF="$folder/containers.conf"

step "base images from Debian's packages"
if [ ! -e "$folder/debian/etc/os-release" ]; then
    debootstrap --variant=minbase \
        --include=ca-certificates,gcc,libc6-dev,binutils,caddy,redis-server,docker-registry \
        bookworm "$folder/debian"
fi
# Rust is mounted into the build, where rustup has it.
path=${CARGO_HOME:-$HOME/.cargo}/bin:/usr/sbin:/usr/bin:/sbin:/bin
tar -C "$folder/debian" -c . | podman import --quiet \
    --change "ENV PATH=$path" --change "ENV RUSTUP_HOME=${RUSTUP_HOME:-$HOME/.rustup}" \
    --change "ENV CARGO_HOME=${CARGO_HOME:-$HOME/.cargo}" - localhost/hammal-test/debian
files="lib lib64 etc/passwd etc/group etc/ssl/certs/ca-certificates.crt"
for package in libc6 libgcc-s1; do
    list=$folder/debian/var/lib/dpkg/info/$package:amd64.list
    files="$files $(sed -n 's|^/\(lib64/[^/]*\)$|usr/\1|p; s|^/\(lib/[^/]*/[^/]*\.so[^/]*\)$|usr/\1|p' "$list")"
done
# shellcheck disable=SC2086 # a list of names
tar -C "$folder/debian" -c $files | podman import --quiet - localhost/hammal-test/run

step "the image (release builds: minutes)"
mkdir -p "$folder/cargo-target"
podman build --format docker --network host --tag localhost/hammal \
    --volume "$folder/cargo-target:/src/target" \
    --volume "${CARGO_HOME:-$HOME/.cargo}:${CARGO_HOME:-$HOME/.cargo}" \
    --volume "${RUSTUP_HOME:-$HOME/.rustup}:${RUSTUP_HOME:-$HOME/.rustup}:ro" \
    --build-arg BUILD_IMAGE=localhost/hammal-test/debian \
    --build-arg RUN_IMAGE=localhost/hammal-test/run .
podman image inspect --format 'size: {{.Size}} bytes, with the base image' localhost/hammal

# What differs from compose.yaml: an upstream in the compose network, which is private, and programs
# of the one Debian image.
cat >"$folder/open.toml" <<'END'
[outbound_networking]
block_networks = []
END
{
    cat "$folder/open.toml"
    sed -n '/^\[key_value_store/,$p' deploy/compose/runtime-config.toml
} >"$folder/shared.toml"
cat >"$folder/registry.yaml" <<'END'
version: 0.1
storage: {filesystem: {rootdirectory: /var/lib/docker-registry}}
http: {addr: ":5000"}
END
cat >"$folder/override.yaml" <<END
x-upstream: &upstream
  SPIN_VARIABLE_UPSTREAM: http://registry:5000
  SPIN_VARIABLE_PLAIN_HTTP_UPSTREAMS: registry:5000
services:
  registry:
    image: localhost/hammal-test/debian
    command: [docker-registry, serve, /etc/registry.yaml]
    volumes: ["$folder/registry.yaml:/etc/registry.yaml:ro"]
    ports: ["127.0.0.1:3999:5000"]
  mirror:
    environment: *upstream
    volumes: ["$folder/open.toml:/etc/hammal/runtime-config.toml:ro"]
  mirror-1: &shared
    environment: *upstream
    volumes: ["$folder/shared.toml:/etc/hammal/runtime-config.toml:ro"]
  mirror-2: *shared
  caddy:
    image: localhost/hammal-test/debian
    command: [caddy, run, --config, /etc/caddy/Caddyfile]
    environment: {XDG_DATA_HOME: /data, MIRROR: localhost}
  valkey:
    image: localhost/hammal-test/debian
    command: [redis-server, --save, "", --bind, 0.0.0.0, --protected-mode, "no"]
END
compose() { podman-compose -p hammal-test -f compose.yaml -f "$folder/override.yaml" "$@"; }
trap 'compose --profile https --profile shared down --volumes >/dev/null 2>&1 || true' EXIT
compose --profile https --profile shared down --volumes >/dev/null 2>&1 || true

until_ready() { # URL [OPTION...]
    for _ in $(seq 100); do
        curl --silent --fail --max-time 2 --output /dev/null "$@" && return
        sleep 0.1
    done
    compose logs >&2 || true
    fail "no answer from $1"
}

pull() { # NAME PORT [OPTION...]
    name=$1 port=$2
    shift 2
    rm -rf "$folder/pulled"
    skopeo copy --quiet "$@" "docker://localhost:$port/library/hammal:test" "dir:$folder/pulled"
    printf '%s: pulled %s\n' "$name" "$(du -sh "$folder/pulled" | cut -f1)"
}

step "the mirror alone"
compose up -d registry mirror
until_ready http://127.0.0.1:3999/v2/
skopeo copy --quiet --dest-tls-verify=false containers-storage:localhost/hammal \
    docker://localhost:3999/library/hammal:test
until_ready http://127.0.0.1:3000/v2/
pull "the mirror alone" 3000 --src-tls-verify=false

step "with https by Caddy, and its own authority"
TRUSTED_PROXIES=1 compose --profile https up -d registry mirror caddy
until_ready https://localhost/v2/ --insecure
mkdir -p "$folder/certs"
compose --profile https exec -T caddy cat /data/caddy/pki/authorities/local/root.crt >"$folder/certs/ca.crt"
pull "https" 443 --src-cert-dir "$folder/certs"

step "two mirrors on one store"
compose --profile shared up -d registry valkey mirror-1 mirror-2
until_ready http://127.0.0.1:3001/v2/
until_ready http://127.0.0.1:3002/v2/
pull "the first of two mirrors" 3001 --src-tls-verify=false
pull "the second of two mirrors" 3002 --src-tls-verify=false
keys=$(compose --profile shared exec -T valkey redis-cli dbsize)
[ "$keys" -gt 0 ] || fail "the mirrors have written nothing to their store"

step "done"
