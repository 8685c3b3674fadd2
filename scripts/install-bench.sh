#!/usr/bin/env bash
# install-bench.sh [client]: sees to it that `make bench` can build its C client: a C compiler and librabbitmq with its
# headers. install-bench.sh wrk: that `make bench-gateway` has wrk. Installs the Debian packages where they are missing;
# where that can't be, it says so and exits 1: `make bench` goes on without.
set -euo pipefail

what=${1:-client}

say() { echo "install-bench: $*" >&2; }

missing() {
    if [ "$what" = wrk ]; then
        command -v wrk >/dev/null || echo wrk
        return
    fi
    command -v "${CC:-cc}" >/dev/null || echo gcc libc6-dev
    # What can be compiled against it is there, wherever it was installed.
    echo '#include <amqp.h>' | "${CC:-cc}" -E -x c - >/dev/null 2>&1 || echo librabbitmq-dev
}

give_up() {
    say "$1; install $([ "$what" = wrk ] && echo wrk || echo gcc and librabbitmq-dev) for the benchmark"
    exit 1
}

apt() {
    "${AS_ROOT[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 "$@" >/dev/null
}

read -r -d '' -a wanted < <(missing) || true
[ ${#wanted[@]} -gt 0 ] || exit 0

command -v apt-get >/dev/null || give_up "not a Debian or Ubuntu machine"
if [ "$(id -u)" = 0 ]; then
    AS_ROOT=()
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    AS_ROOT=(sudo -n)
else
    give_up "neither root nor password-less sudo"
fi

say "installing ${wanted[*]}"
refresh() { apt -o APT::Update::Error-Mode=any update; }   # without this, apt calls a failed download a success
refresh || { sleep 3; refresh; } || say "apt-get update failed; trying with the package lists there are"
apt install --yes --no-install-recommends "${wanted[@]}" || give_up "apt-get install ${wanted[*]} failed"
read -r -d '' -a wanted < <(missing) || true
[ ${#wanted[@]} -eq 0 ] || give_up "still missing after the installation: ${wanted[*]}"
