#!/bin/sh
# Measures mirrors of Docker Hub from this machine, by way of {{mirror}}, and prints a table.
#
#   curl -fsSL {{mirror}}/speedtest.sh | sh
#   curl -fsSL {{mirror}}/speedtest.sh | sh -s -- docker.io mirror.gcr.io
#
# IMAGE=library/debian:stable-slim and SECONDS_EACH=8 may be set before sh. It needs curl, and
# sha256sum, shasum or openssl to check digests.
set -u
mirror=${MIRROR:-'{{mirror}}'}
seconds=${SECONDS_EACH:-8}
image=${IMAGE:+/$IMAGE}
[ $# -gt 0 ] || set -- {{mirrors}}

command -v curl >/dev/null || { echo "speedtest.sh needs curl" >&2; exit 1; }
folder=$(mktemp -d "${TMPDIR:-/tmp}/speedtest.XXXXXX") || exit 1
trap 'rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM

digest() {
    if command -v sha256sum >/dev/null; then sha256sum "$1" | cut -d' ' -f1
    elif command -v shasum >/dev/null; then shasum -a 256 "$1" | cut -d' ' -f1
    elif command -v openssl >/dev/null; then openssl dgst -sha256 "$1" | sed 's/.* //'
    fi
}

for host in "$@"; do
    printf '%s ... ' "$host" >&2
    url=$mirror/speed/${host#*://}$image
    rm -f "$folder/layer" "$folder/head"
    result=$(curl -qsL -m "$seconds" -D "$folder/head" -o "$folder/layer" \
        -w '%{http_code} %{time_starttransfer} %{speed_download} %{url_effective}' "$url")
    status=$?
    IFS=' ' read -r code first speed end <<EOT
$result
EOT
    wanted=$(tr -d '\r' <"$folder/head" 2>/dev/null | sed -n 's/^[Dd]ocker-[Cc]ontent-[Dd]igest: sha256://p' | head -n 1)
    checked=-
    note=
    case $status in
    0)
        case $code in
        2??)
            found=$(digest "$folder/layer")
            if [ -z "$wanted" ] || [ -z "$found" ]; then checked=unchecked
            elif [ "$wanted" = "$found" ]; then checked=right
            else checked=WRONG; fi
            ;;
        esac
        ;;
    28)
        note="cut off after $seconds s"
        [ -s "$folder/layer" ] && checked=unchecked
        ;;
    *) note="curl failed with $status" ;;
    esac
    case $code in
    200 | 206) [ "$end" != "${end#"$mirror"/}" ] && note="${note:+$note, }through this mirror" ;;
    *) [ -n "$note" ] || note="status $code"; speed=0 ;;
    esac
    [ "$checked" = WRONG ] && speed=0
    echo "$speed $code $first $checked $host $note" >>"$folder/results"
    echo "$code" >&2
done

echo
printf '%-28s %6s %12s %9s %-10s %s\n' MIRROR STATUS 'FIRST BYTE' MB/s DIGEST NOTE
LC_ALL=C sort -rn "$folder/results" | LC_ALL=C awk '{
    note = ""
    for (i = 6; i <= NF; i++) note = note $i " "
    printf "%-28s %6s %10.2f s %9.2f %-10s %s\n", $5, $2, $3, $1 / 1000000, $4, note
}'
