# shellcheck shell=sh
# Sourced by other scripts: the value of a variable in .env, as it stands there; nothing if there is none.
from_env() { sed -n "s/^$1=//p" .env 2>/dev/null | tail -n 1; }
