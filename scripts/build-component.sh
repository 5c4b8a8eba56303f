#!/bin/sh
# Builds the component as spin.toml does: target/wasm32-wasip2/component/hammal.wasm.
set -eu
cd "$(dirname "$0")/.."
sh -c "$(sed -n 's/^command = "\(.*\)"$/\1/p' spin.toml)"
