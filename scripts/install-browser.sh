#!/usr/bin/env bash
# Sees to it that the dashboard's tests have a Chromium to drive. Installs Debian's package where none is there.
# Ubuntu's archive has no such package, a snap has taken its place: there, Chrome is for the user to install.
set -euo pipefail

REMEDY="install Chromium or Chrome, then try again"
# shellcheck source=scripts/apt.sh
. "$(dirname "$0")/apt.sh"

missing() {
    { command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null || echo chromium
}

[ -n "$(missing)" ] || exit 0
become_root
install_missing
