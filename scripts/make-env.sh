#!/bin/sh
# Writes .env from .env.example, and a random password into each file of secrets/. Keeps what exists. A password that an
# .env of an older version has is copied into its file.
set -eu
cd "$(dirname "$0")/.."
. scripts/from-env.sh
random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
umask 077
mkdir -p secrets
chmod 700 secrets
moved=""
for secret in rabbitmq_password rabbitmq_erlang_cookie redis_password gateway_api_key callback_secret grafana_password \
    producer_password sender_password monitor_password gateway_password; do
    file=secrets/$secret variable=$(echo $secret | tr '[:lower:]' '[:upper:]')
    [ ! -s $file ] || continue
    value=$(from_env "$variable")
    case $value in
        "") value=$(random) ;;
        *[!A-Za-z0-9._~+/=-]*) # quotes and escapes of .env
            echo "write the $variable of .env into the file $file, as it is without quotes; then run make env again" >&2
            exit 1 ;;
        *) moved="$moved $variable" ;;
    esac
    printf '%s\n' "$value" >$file
    chmod 644 $file # the containers' users read it; the folder keeps other users of this machine out
    echo "wrote $file" >&2
done
for variable in $moved; do
    case $variable in
        RABBITMQ_ERLANG_COOKIE | GRAFANA_PASSWORD) echo ".env: remove the line $variable=" ;;
        *) echo ".env: replace the line $variable= by ${variable}_FILE=secrets/$(echo "$variable" | tr '[:upper:]' '[:lower:]')" ;;
    esac >&2
done
if [ -e .env ]; then
    echo ".env exists: not changed" >&2
    exit 0
fi
cp .env.example .env.new
mv .env.new .env
echo "wrote .env" >&2
