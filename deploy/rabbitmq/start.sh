#!/bin/sh
# Starts RabbitMQ in its container. Imports the users at every start: a password that was changed in secrets/ is in force
# from then on.
set -eu
umask 077
sh "$(dirname "$0")/definitions.sh" /run/secrets "$ADMINISTRATOR" "$VHOST" "${QUEUE_NAME:-${STACK}_queue}" >/tmp/definitions.json
chown rabbitmq /tmp/definitions.json

# The cookie by which the nodes of a cluster authenticate one another.
cookie=/var/lib/rabbitmq/.erlang.cookie
if [ -e /run/secrets/rabbitmq_erlang_cookie ]; then
    rm -f $cookie
    cat /run/secrets/rabbitmq_erlang_cookie >$cookie
    chmod 400 $cookie
    chown rabbitmq $cookie
fi
exec docker-entrypoint.sh rabbitmq-server
