# shellcheck shell=bash
# Sourced by the install-*.sh scripts: installs Debian packages as root or by sudo, or says what the user can do instead.
# A script defines `missing`, which prints the packages that are missing, and REMEDY: what to do where apt cannot help.

say() { echo "$(basename "$0" .sh): $*" >&2; }

give_up() {
    say "$1; $REMEDY"
    exit 1
}

# Sets AS_ROOT, the prefix of commands that need root. Gives up where apt, or the right to use it, is missing.
become_root() {
    command -v apt-get >/dev/null || give_up "not a Debian or Ubuntu machine"
    if [ "$(id -u)" = 0 ]; then
        AS_ROOT=()
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        AS_ROOT=(sudo -n)
    else
        give_up "neither root nor password-less sudo"
    fi
}

apt() {
    "${AS_ROOT[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 "$@" >/dev/null
}

# Without this setting, apt reports a failed download as a success.
refresh() { apt -o APT::Update::Error-Mode=any update; }

install_missing() {
    local wanted
    read -r -d '' -a wanted < <(missing) || true
    say "installing ${wanted[*]}"
    refresh || { sleep 3; refresh; } || say "apt-get update failed; trying with the present package lists"
    apt install --yes --no-install-recommends "${wanted[@]}" || give_up "apt-get install ${wanted[*]} failed"
    read -r -d '' -a wanted < <(missing) || true
    [ ${#wanted[@]} -eq 0 ] || give_up "still missing after the installation: ${wanted[*]}"
}
