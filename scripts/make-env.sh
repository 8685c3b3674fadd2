#!/bin/sh
# Writes .env from .env.example with random passwords, readable by its owner only. Keeps an existing .env.
set -eu
cd "$(dirname "$0")/.."
if [ -e .env ]; then
    echo ".env exists: not changed" >&2
    exit 0
fi
random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
umask 077
sed -e "s/^RABBITMQ_PASSWORD=$/&$(random)/" -e "s/^REDIS_PASSWORD=$/&$(random)/" \
    -e "s/^GATEWAY_API_KEY=$/&$(random)/" -e "s/^CALLBACK_SECRET=$/&$(random)/" \
    -e "s/^RABBITMQ_ERLANG_COOKIE=$/&$(random)/" -e "s/^GRAFANA_PASSWORD=$/&$(random)/" .env.example >.env.new
mv .env.new .env
echo "wrote .env with random passwords" >&2
