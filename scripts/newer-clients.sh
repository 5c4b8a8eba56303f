#!/bin/sh
# Puts the registry clients that this Debian's own suite lacks into DIR, from newer suites' packages: crane, oras,
# docker 28, containerd 2. Prints what it found; names what could not be had. Safe to run any number of times.
#
#   sh scripts/newer-clients.sh [DIR]        DIR is target/newer-clients unless given
#
# Nothing is installed: the packages are unpacked in DIR, and the machine's own apt configuration stays as it is.
set -eu

dir=${1:-target/newer-clients}
# Package, how its version has to begin, and its programs.
wanted='
crane          -   crane
oras           -   oras
docker.io      28. dockerd docker-proxy
docker-cli     28. docker
docker-buildx  -   docker-buildx
containerd     2.  containerd ctr containerd-shim-runc-v2
runc           -   runc
'

say() { echo "newer-clients: $*" >&2; }
die() { say "$*"; exit 1; }

for tool in apt-get apt-cache dpkg dpkg-deb ldd; do
    command -v $tool >/dev/null || die "$tool is missing: this works on Debian only"
done
if [ -f "$dir/.complete" ] && [ "$(cat "$dir/.wanted")" = "$(echo "$wanted")" ]; then
    cat "$dir/.complete"
    exit 0
fi

mirror=$(cat /etc/apt/sources.list.d/*.sources 2>/dev/null \
    | sed -n 's/^URIs:[[:space:]]*\([^[:space:]]*\).*/\1/p' | grep '/debian/*$' | head -n 1)
[ -n "$mirror" ] || mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null \
    | sed -n 's/^deb[[:space:]]\{1,\}\(\[[^]]*\][[:space:]]*\)\{0,1\}\([^[:space:]]*\).*/\2/p' | grep '/debian/*$' | head -n 1)
[ -n "$mirror" ] || die "no Debian mirror is configured in /etc/apt"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -f $keyring ] || die "$keyring is missing; install the package debian-archive-keyring"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/deb" "$dir"
for suite in testing unstable bookworm-backports trixie-backports stable-backports; do
    echo "deb [signed-by=$keyring] $mirror $suite main"
done > "$work/sources.list"
apt() {
    tool=$1; shift
    "apt-$tool" -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::Etc::preferencesparts=/dev/null -o Dir::State::Lists="$work/lists" \
        -o Dir::Cache="$work/cache" -o APT::Sandbox::User=root -o Acquire::Languages=none \
        -o Acquire::AllowInsecureRepositories=false -o Acquire::AllowWeakRepositories=false \
        -o Acquire::AllowDowngradeToInsecureRepositories=false -o APT::Get::AllowUnauthenticated=false \
        -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false "$@"
}
# A suite that this mirror lacks is no fault: what counts is whether the packages below are found.
apt get -q update >"$work/update.log" 2>&1 || true

newest() { # the newest version of package $1 that begins with $2
    apt cache madison "$1" | awk -F'|' '{ gsub(/ /, "", $2); print $2 }' | while read -r v; do
        case $v in "$2"*) echo "$v" ;; esac
    done | sort -Vru | head -n 1
}
unpack() { # package $1 in version $2
    (cd "$work/deb" && apt get -q download "$1=$2" >>"$work/download.log" 2>&1) || return 1
    dpkg-deb -x "$(ls "$work/deb/$1"_*.deb)" "$dir"
}
libraries=$dir/usr/lib/$(dpkg-architecture -q DEB_HOST_MULTIARCH 2>/dev/null || echo "$(uname -m)-linux-gnu")
lacks() { # what program $1 lacks to run here, if anything
    LD_LIBRARY_PATH=$libraries ldd "$1" 2>&1 | grep 'not found' | sed 's/^[[:space:]]*//' | head -n 1
}
locate() {
    for path in "$dir/usr/bin/$1" "$dir/usr/sbin/$1" "$dir/usr/libexec/docker/cli-plugins/$1"; do
        [ ! -f "$path" ] || { echo "$path"; return; }
    done
}

echo "$wanted" | while read -r package begins programs; do
    [ -n "$package" ] || continue
    [ "$begins" != - ] || begins=
    version=$(newest "$package" "$begins")
    if [ -z "$version" ]; then
        echo "missing $package: $mirror has no version $begins* of it in a newer suite"
        continue
    fi
    if ! unpack "$package" "$version"; then
        echo "missing $package: $(tail -n 1 "$work/download.log")"
        continue
    fi
    # A library that this machine lacks comes from the package's own dependencies.
    for program in $programs; do
        path=$(locate "$program")
        [ -n "$path" ] || { echo "missing $program: it is not in $package $version"; continue; }
        case $(lacks "$path") in *"=> not found"*)
            for library in $(dpkg-deb -f "$work/deb/$package"_*.deb Depends | tr ',|' '\n\n' \
                | sed 's/^ *//; s/[ (].*//' | grep '^lib' | grep -v '^libc6$'); do
                of_library=$(newest "$library" "")
                [ -z "$of_library" ] || unpack "$library" "$of_library" || true
            done ;;
        esac
        lacking=$(lacks "$path")
        if [ -z "$lacking" ]; then
            echo "found $program $version"
        else
            rm -f "$dir/usr/bin/$program" "$dir/usr/sbin/$program"
            echo "missing $program: $version does not run here (${lacking##*: })"
        fi
    done
done > "$work/found"
grep -q '^found' "$work/found" || { cat "$work/found" >&2; die "nothing could be had (see above)"; }
echo "$wanted" > "$dir/.wanted"
cp "$work/found" "$dir/.complete"
cat "$dir/.complete"
