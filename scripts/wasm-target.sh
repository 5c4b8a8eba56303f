#!/bin/sh
# Makes `cargo build --target wasm32-wasip2` work on this machine. Safe to run any number of times.
#
# Three ways, the first that works:
#   1. the toolchain already has the target's standard library: nothing to do
#   2. rustup downloads it, unless RUSTUP_AUTO_INSTALL=0 says that rustup may not download
#   3. Debian: the library is built once from Debian's own source packages (rust-src, wasi-libc)
#      and installed into the toolchain
set -eu

target=wasm32-wasip2
rustc=${RUSTC:-rustc}
cargo=${CARGO:-cargo}

say() { echo "wasm-target: $*" >&2; }
die() { say "$*"; exit 1; }

command -v "$rustc" >/dev/null || die "no rustc found; install Rust, then run this again"
version=$("$rustc" --version --verbose | sed -n 's/^release: //p')
libdir=$("$rustc" --print target-libdir --target $target 2>/dev/null) \
    || die "rustc $version does not know the target $target; update Rust, then run this again"
stamp=$libdir/.built-by
identity=$("$rustc" --version)

installed() {
    ls "$libdir"/libstd-*.rlib >/dev/null 2>&1 || return 1
    # A library that way 3 built with another rustc is of no use to this one; rustup's own has no stamp.
    [ ! -f "$stamp" ] || [ "$(cat "$stamp")" = "$identity" ]
}

if installed; then exit 0; fi

# Tests and a build may both come here at once: one of them works, the other waits.
lock=$(dirname "$libdir")/.lock
if mkdir -p "$(dirname "$libdir")" 2>/dev/null && command -v flock >/dev/null; then
    exec 9>"$lock"
    flock 9
    if installed; then exit 0; fi
fi

if [ "${RUSTUP_AUTO_INSTALL:-1}" != 0 ] && command -v rustup >/dev/null; then
    say "adding $target with rustup"
    if rustup target add $target >&2 && installed; then exit 0; fi
    say "rustup could not add it; trying Debian's source packages"
fi

for tool in apt-get dpkg dpkg-deb cc; do
    command -v $tool >/dev/null || die "the Rust target $target is missing; run 'rustup target add $target' (no $tool here to build it from Debian's packages)"
done
mkdir -p "$libdir" 2>/dev/null && [ -w "$libdir" ] \
    || die "cannot write to $libdir; run this once as the user who owns the Rust toolchain"

say "building the standard library of $target for rustc $version from Debian's source packages (a minute, once)"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM

# The machine's own apt configuration stays as it is: the mirror that it names is asked, with a private
# sources list and private state.
mirror=$(cat /etc/apt/sources.list.d/*.sources 2>/dev/null \
    | sed -n 's/^URIs:[[:space:]]*\([^[:space:]]*\).*/\1/p' | grep '/debian/*$' | head -n 1)
[ -n "$mirror" ] || mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null \
    | sed -n 's/^deb[[:space:]]\{1,\}\(\[[^]]*\][[:space:]]*\)\{0,1\}\([^[:space:]]*\).*/\2/p' | grep '/debian/*$' | head -n 1)
[ -n "$mirror" ] || die "no Debian mirror is configured in /etc/apt; run 'rustup target add $target' instead"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -f $keyring ] || die "$keyring is missing; install the package debian-archive-keyring"

mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/parts" "$work/deb" "$work/root"
for suite in stable-backports stable testing unstable bookworm-backports trixie-backports forky-backports; do
    echo "deb [signed-by=$keyring] $mirror $suite main"
done > "$work/sources.list"
apt() {
    tool=$1; shift
    "apt-$tool" -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::Etc::preferencesparts=/dev/null -o Dir::State::Lists="$work/lists" \
        -o Dir::Cache="$work/cache" -o APT::Sandbox::User=root -o Acquire::Languages=none \
        -o Acquire::AllowInsecureRepositories=false -o Acquire::AllowWeakRepositories=false \
        -o Acquire::AllowDowngradeToInsecureRepositories=false -o APT::Get::AllowUnauthenticated=false "$@"
}
# A suite that this mirror lacks is no fault: what counts is whether the versions below are found.
apt get -q update >"$work/update.log" 2>&1 || true

newest() { # the newest version of package $1 whose upstream version begins with $2
    apt cache madison "$1" | awk -F'|' '{ gsub(/ /, "", $2); print $2 }' | while read -r v; do
        case $v in "$2"*) echo "$v" ;; esac
    done | sort -Vru | head -n 1
}
source_version=$(newest rust-src "$version")
[ -n "$source_version" ] \
    || die "Debian's mirror has no rust-src $version; run 'rustup target add $target' or use a Rust that Debian has (see $work/update.log)"
libc_version=$(newest wasi-libc "")
[ -n "$libc_version" ] || die "Debian's mirror has no wasi-libc; run 'rustup target add $target' instead"
say "downloading rust-src $source_version and wasi-libc $libc_version"
(cd "$work/deb" && apt get -q download "rust-src=$source_version" "wasi-libc=$libc_version" >"$work/download.log" 2>&1) \
    || { tail -n 5 "$work/download.log" >&2; die "the download failed; run this again"; }
for deb in "$work"/deb/*.deb; do dpkg-deb -x "$deb" "$work/root"; done

sources=
for dir in "$work"/root/usr/src/rustc-*; do [ ! -f "$dir/library/Cargo.lock" ] || sources=$dir; done
[ -n "$sources" ] || die "rust-src $source_version holds no standard library"
libc=$work/root/usr/lib/$target
[ -f "$libc/libc.a" ] || libc=$work/root/usr/lib/wasm32-wasi
[ -f "$libc/libc.a" ] && [ -f "$libc/crt1-command.o" ] || die "wasi-libc $libc_version holds no $target library"

# build-std looks for the sources in the sysroot, and for the workspace's lock file beside them.
link=$("$rustc" --print sysroot)/lib/rustlib/src/rust
linked=
if [ ! -e "$link" ]; then
    rm -f "$link"
    mkdir -p "$(dirname "$link")"
    ln -s "$sources" "$link"
    linked=$link
fi
trap 'rm -rf "$work"; [ -z "$linked" ] || rm -f "$linked"' EXIT

mkdir -p "$work/empty/src"
cat > "$work/empty/Cargo.toml" <<TOML
[package]
name = "empty"
version = "0.0.0"
edition = "2021"
[workspace]
TOML
echo 'fn main() {}' > "$work/empty/src/main.rs"
say "compiling"
# embed-bitcode: without it a later build with link-time optimisation fails.
(
    cd "$work/empty"
    unset CARGO_TARGET_DIR CARGO_BUILD_TARGET CARGO_ENCODED_RUSTFLAGS CARGO_MAKEFLAGS
    RUSTC_BOOTSTRAP=1 CARGO_INCREMENTAL=0 \
        RUSTFLAGS="-Cembed-bitcode=yes -L native=$libc -Clink-self-contained=no -Clink-arg=$libc/crt1-command.o" \
        "$cargo" build --release --target $target -Zbuild-std=std,panic_abort >"$work/build.log" 2>&1
) || { tail -n 20 "$work/build.log" >&2; die "building the standard library failed"; }

# Two builds of one library in this folder stop every later build.
rm -rf "$libdir"
mkdir -p "$libdir/self-contained"
for lib in "$work/empty/target/$target/release/deps"/*.rlib; do
    case $(basename "$lib") in libempty-*) ;; *) cp "$lib" "$libdir/" ;; esac
done
for file in libc.a crt1-command.o crt1-reactor.o; do
    [ ! -f "$libc/$file" ] || cp "$libc/$file" "$libdir/self-contained/"
done
echo "$identity" > "$stamp"
installed || die "the build left no standard library in $libdir"
say "$target is ready"
