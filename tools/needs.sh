#!/usr/bin/env bash
# Fails where a program or library of Linux needs more than libc, libm, libgcc_s and the loader.
#
#   tools/needs.sh FILE...
set -euo pipefail

status=0
for file in "$@"; do
    needed=$(LC_ALL=C readelf -d "$file" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
    # A file of another kind, or one without a table, must not pass for want of lines.
    [ -n "$needed" ] || { echo "$file: readelf names nothing that it needs" >&2; status=1; }
    for library in $needed; do
        case $library in
            libc.so.6 | libm.so.6 | libgcc_s.so.1 | ld-linux*.so.*) ;;
            *) echo "$file: needs $library" >&2; status=1 ;;
        esac
    done
done
exit "$status"
