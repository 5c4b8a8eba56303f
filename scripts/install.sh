#!/bin/sh
# Installs what was built as a systemd service, on Debian and systems like it; or removes it.
#
#   sudo sh scripts/install.sh [--destdir DIR] [--debug]
#   sudo sh scripts/install.sh --remove [--purge] [--destdir DIR]
#
# Build first:   cargo build --release --locked --package hammal-host && sh scripts/build-component.sh
# --destdir puts the files below DIR and starts nothing. --debug takes the host of the dev profile.
# What is in /etc/hammal stays when a newer version is installed, and unless --purge when it is removed.
set -eu
cd "$(dirname "$0")/.."

destdir='' profile=release remove='' purge=''
while [ $# -gt 0 ]; do
    case $1 in
    --destdir) destdir=${2:?--destdir needs a folder}; shift ;;
    --debug) profile=debug ;;
    --remove) remove=1 ;;
    --purge) purge=1 ;;
    *) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
    shift
done

say() { echo "install: $*" >&2; }
die() { say "$*"; exit 1; }
has_systemd() { [ -z "$destdir" ] && [ -d /run/systemd/system ]; }

lib=$destdir/usr/lib/hammal etc=$destdir/etc/hammal
unit=$destdir/lib/systemd/system/hammal.service
[ -n "$destdir" ] || [ "$(id -u)" = 0 ] || die "run it as root, or with --destdir"

if [ -n "$remove" ]; then
    if has_systemd; then systemctl disable --now hammal.service || true; fi
    rm -rf "$lib" "$unit" "$destdir/usr/bin/hammal-host"
    if [ -n "$purge" ]; then
        rm -rf "$etc" "$destdir/var/lib/private/hammal" "$destdir/var/cache/private/hammal"
        rm -f "$destdir/var/lib/hammal" "$destdir/var/cache/hammal"
    fi
    if has_systemd; then systemctl daemon-reload; fi
    say "removed${purge:+, with its settings and data}"
    exit 0
fi

target=${CARGO_TARGET_DIR:-target}
host=$target/$profile/hammal-host
component=$(sed -n 's/^source = "\(.*\)"$/\1/p' spin.toml)
[ -x "$host" ] || die "$host is missing: cargo build --release --locked --package hammal-host"
[ -f "$component" ] || die "$component is missing: sh scripts/build-component.sh"

install -d "$lib" "$etc" "$destdir/usr/bin" "$(dirname "$unit")"
# Beside the old file and renamed: a program that runs can't be written to.
install -m 755 "$host" "$lib/hammal-host.new"
mv "$lib/hammal-host.new" "$lib/hammal-host"
install -m 644 "$component" "$lib/hammal.wasm"
# The manifest with the component beside it, and without the command that builds it.
sed -e '/^\[component\.hammal\.build\]/,/^$/d' -e 's|^source = .*|source = "hammal.wasm"|' spin.toml >"$lib/spin.toml"
ln -sf ../lib/hammal/hammal-host "$destdir/usr/bin/hammal-host"
[ -e "$etc/runtime-config.toml" ] || install -m 640 runtime-config.toml "$etc/runtime-config.toml"
[ -e "$etc/hammal.env" ] || install -m 640 deploy/systemd/hammal.env "$etc/hammal.env"
install -m 644 deploy/systemd/hammal.service "$unit"

if has_systemd; then
    systemctl daemon-reload
    systemctl enable hammal.service
    systemctl restart hammal.service
    say "hammal is running: systemctl status hammal; its log: journalctl -u hammal"
else
    say "installed in $lib; the unit is $unit"
fi
