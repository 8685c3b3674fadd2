#!/bin/sh
# Replaces the stack's two volumes, queue and ledger, with the content of a backup: scripts/restore.sh FILE.
set -eu
[ $# = 1 ] && [ -r "$1" ] || { echo "usage: scripts/restore.sh FILE" >&2; exit 2; }
file=$(realpath "$1")
cd "$(dirname "$0")/.."
. scripts/volumes.sh
refuse_other_volumes
refuse_while_running
tar -t -f "$file" >/dev/null || { echo "$1 is not a backup: nothing was changed" >&2; exit 1; }
on_volumes sh -c 'find /volumes -mindepth 2 -delete && tar -C /volumes -x' <"$file"
echo "restored from $1; now: docker-compose up -d" >&2
