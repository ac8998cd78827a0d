#!/bin/sh
# Sends an event, once, however often it has to try; and only once for the same id.
#
#   export TIDINGS_URL=http://127.0.0.1:8000 TIDINGS_KEY=tk_…
#   examples/curl/send.sh backup-2026-11-26 '{"to": "user:alice", "type": "backup.done", "data": {"size": 17}}'
set -eu

id=$1 event=$2

curl -sS --fail-with-body --retry 8 --retry-connrefused --max-time 60 "$TIDINGS_URL/v1/events" \
    -H "Authorization: Bearer $TIDINGS_KEY" \
    -H "Idempotency-Key: $id" \
    -H 'Content-Type: application/json' \
    -d "$event"
