#!/bin/sh
# The broker. It may lose all data, but must not evict messages (noeviction) or accept unauthenticated clients.
# Settings are passed on standard input, so that the password is in no process list and no file.
set -eu
password=${REDIS_PASSWORD:?REDIS_PASSWORD: make one with openssl rand -hex 24}
case "$password" in
    *[!A-Za-z0-9]*)
        echo "REDIS_PASSWORD: use letters and digits only, for it is part of a URL" >&2
        exit 2
        ;;
esac

exec "${REDIS_SERVER:-valkey-server}" - <<SETTINGS
port ${REDIS_PORT:-6379}
bind ${REDIS_BIND:-*}
requirepass $password
dir ${REDIS_DATA:-/data}
appendonly yes
appendfsync everysec
save ""
maxmemory ${REDIS_MAXMEMORY:-256mb}
maxmemory-policy noeviction
SETTINGS
