#!/usr/bin/env bash
# What cargo starts test programs by when several `cargo test` share them (tools/test.sh): a program
# that another one has begun is left to it.
#
#   HADAL_LANES=FOLDER tools/lane.sh PROGRAM [ARGUMENT]...
set -euo pipefail
mkdir "$HADAL_LANES/$(basename "$1")" 2> /dev/null || exit 0
# What a test starts by cargo is its own.
unset "${!CARGO_TARGET_@}"
exec "$@"
