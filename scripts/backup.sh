#!/bin/sh
# Packs the stack's two volumes, queue and ledger, into one file: scripts/backup.sh FILE. Stop the stack first.
set -eu
umask 077 # the backup holds texts, numbers and RabbitMQ's secrets
[ $# = 1 ] || { echo "usage: scripts/backup.sh FILE" >&2; exit 2; }
cd "$(dirname "$0")/.."
. scripts/volumes.sh
refuse_other_volumes
refuse_while_running
out=$(realpath "$1")
[ ! -e "$out" ] || { echo "$1 exists already: choose another name" >&2; exit 2; }
on_volumes tar -C /volumes -c . >"$out.part"
mv "$out.part" "$out"
echo "$1: $(du -h "$out" | cut -f1)" >&2
