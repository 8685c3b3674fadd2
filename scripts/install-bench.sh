#!/usr/bin/env bash
# install-bench.sh [client]: installs what `make bench` needs to build its C client: a C compiler and librabbitmq with its
# headers. install-bench.sh wrk: installs wrk for `make bench-gateway`. Where it cannot install the Debian packages, it
# says so and exits 1; `make bench` continues without the C client.
set -euo pipefail

what=${1:-client}
REMEDY="install $([ "$what" = wrk ] && echo wrk || echo gcc and librabbitmq-dev) for the benchmark"
# shellcheck source=scripts/apt.sh
. "$(dirname "$0")/apt.sh"

missing() {
    if [ "$what" = wrk ]; then
        command -v wrk >/dev/null || echo wrk
        return
    fi
    command -v "${CC:-cc}" >/dev/null || echo gcc libc6-dev
    # The compiler finds the header wherever it is installed.
    echo '#include <amqp.h>' | "${CC:-cc}" -E -x c - >/dev/null 2>&1 || echo librabbitmq-dev
}

[ -n "$(missing)" ] || exit 0
become_root
install_missing
