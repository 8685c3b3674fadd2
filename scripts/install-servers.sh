#!/usr/bin/env bash
# Provides Redis and RabbitMQ for tests and benchmarks: the programs redis-server and rabbitmq-server, or a Docker engine
# with their images. Installs the two Debian packages where both are missing. Starts no service: the tests start private
# instances. Does not touch servers that run on this machine.
set -euo pipefail

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin:/usr/lib/rabbitmq/bin
POLICY=/usr/sbin/policy-rc.d
REMEDY="install redis-server and rabbitmq-server (or start a Docker engine), then try again"
# shellcheck source=scripts/apt.sh
. "$(dirname "$0")/apt.sh"

missing() {
    local program
    for program in redis-server rabbitmq-server; do
        command -v "$program" >/dev/null || echo "$program"
    done
}

docker_has_images() {
    command -v docker >/dev/null && timeout 20 docker info >/dev/null 2>&1 || return 1
    local image
    for image in "${RABBITMQ_IMAGE:-rabbitmq:4.3-management}" "${REDIS_IMAGE:-redis:8}"; do
        docker image inspect "$image" >/dev/null 2>&1 || docker pull --quiet "$image" >/dev/null 2>&1 || return 1
    done
}

# Debian starts a service after its installation, unless policy-rc.d exits with 101 ("not allowed").
forbid_service_starts() {
    [ ! -e "$POLICY" ] || return 0
    trap '"${AS_ROOT[@]}" rm -f "$POLICY"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    # shellcheck disable=SC2016  # expanded by the inner shell
    "${AS_ROOT[@]}" sh -c 'printf "#!/bin/sh\nexit 101\n" >"$1" && chmod 755 "$1"' sh "$POLICY"
}

if [ -z "$(missing)" ] || { [ "${SMSIM_TEST_SERVERS:-}" != local ] && docker_has_images; }; then
    exit 0
fi
become_root
forbid_service_starts
install_missing
