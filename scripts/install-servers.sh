#!/usr/bin/env bash
# Sees to it that tests and benchmarks have a Redis and a RabbitMQ to start for themselves: the programs redis-server and
# rabbitmq-server, or a Docker engine that has their images. Installs the two Debian packages where neither is there, and
# starts no service: the tests start private instances, and what runs on this machine already is left as it is.
set -euo pipefail

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin:/usr/lib/rabbitmq/bin
POLICY=/usr/sbin/policy-rc.d

say() { echo "install-servers: $*" >&2; }

missing() {
    local program
    for program in redis-server rabbitmq-server; do
        command -v "$program" >/dev/null || echo "$program"
    done
}

docker_has_images() {
    command -v docker >/dev/null && timeout 20 docker info >/dev/null 2>&1 || return 1
    local image
    for image in "${RABBITMQ_IMAGE:-rabbitmq:3-management}" "${REDIS_IMAGE:-redis:7}"; do
        docker image inspect "$image" >/dev/null 2>&1 || docker pull --quiet "$image" >/dev/null 2>&1 || return 1
    done
}

give_up() {
    say "$1; install redis-server and rabbitmq-server (or start a Docker engine), then try again"
    exit 1
}

apt() {
    "${AS_ROOT[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 "$@" >/dev/null
}

# Debian starts a service as it installs it, unless policy-rc.d says 101 ("not allowed").
forbid_service_starts() {
    [ ! -e "$POLICY" ] || return 0
    trap '"${AS_ROOT[@]}" rm -f "$POLICY"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    # shellcheck disable=SC2016  # expanded by the inner shell
    "${AS_ROOT[@]}" sh -c 'printf "#!/bin/sh\nexit 101\n" >"$1" && chmod 755 "$1"' sh "$POLICY"
}

mapfile -t wanted < <(missing)
if [ ${#wanted[@]} -eq 0 ] || { [ "${SMSIM_TEST_SERVERS:-}" != local ] && docker_has_images; }; then
    exit 0
fi

command -v apt-get >/dev/null || give_up "not a Debian or Ubuntu machine"
if [ "$(id -u)" = 0 ]; then
    AS_ROOT=()
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    AS_ROOT=(sudo -n)
else
    give_up "neither root nor password-less sudo"
fi

say "installing ${wanted[*]}"
forbid_service_starts
refresh() { apt -o APT::Update::Error-Mode=any update; }   # without this, apt calls a failed download a success
refresh || { sleep 3; refresh; } || say "apt-get update failed; trying with the package lists there are"
apt install --yes --no-install-recommends "${wanted[@]}" || give_up "apt-get install ${wanted[*]} failed"
mapfile -t wanted < <(missing)
[ ${#wanted[@]} -eq 0 ] || give_up "still missing after the installation: ${wanted[*]}"
