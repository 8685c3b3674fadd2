#!/usr/bin/env bash
# Sees to it that the dashboard's tests have a Chromium to drive. Installs Debian's package where none is there.
set -euo pipefail

say() { echo "install-browser: $*" >&2; }

browser() { command -v chromium || command -v chromium-browser || command -v google-chrome; }

give_up() {
    say "$1; install Chromium or Chrome, then try again"
    exit 1
}

apt() {
    "${AS_ROOT[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 "$@" >/dev/null
}

if browser >/dev/null; then
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

say "installing chromium"
refresh() { apt -o APT::Update::Error-Mode=any update; }   # without this, apt calls a failed download a success
refresh || { sleep 3; refresh; } || say "apt-get update failed; trying with the package lists there are"
# Ubuntu's archive has no such package, a snap has taken its place: there, Chrome is for the user to install.
apt install --yes --no-install-recommends chromium || give_up "apt-get install chromium failed"
browser >/dev/null || give_up "still missing after the installation: chromium"
