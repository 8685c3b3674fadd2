#!/usr/bin/env bash
# Installs Chromium for the dashboard's tests, where neither Chromium nor Chrome is installed. Ubuntu has no Debian package
# of it, only a snap: install Chrome there.
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
