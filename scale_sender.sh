#!/usr/bin/env bash
# Runs N local senders, each with its own log in sender_logs/. Starts missing senders, restarts dead ones, and stops
# surplus ones gracefully. It ends only processes that it started itself.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"   # `sh scale_sender.sh` works, too
set -euo pipefail
# Cron lines and daemons may close the standard streams. A message that cannot be written must not end the script.
{ true 3>&1; } 2>/dev/null || exec >/dev/null
true 3>&2 || exec 2>/dev/null
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")"

readonly LOGS=sender_logs MAX_SENDERS=999
readonly START_S=15   # how long a sender may take to connect before it counts as running
HOST=$(uname -n)

main() {
    case ${1:-} in
    -h | --help) usage; exit 0 ;;
    esac
    [[ ${1:-} =~ ^[0-9]{1,9}$ ]] && ((10#$1 <= MAX_SENDERS)) ||
        { echo "scale_sender: '${1:-}' is not a number of senders from 0 to $MAX_SENDERS; try: $0 5" >&2; exit 2; }
    local wanted=$((10#$1))
    shift

    mkdir -p "$LOGS"
    one_at_a_time
    stop_above "$wanted"
    start_up_to "$wanted" "$@"
}

usage() {
    cat <<TEXT
usage: $0 N [ARGUMENT...]
Runs N local senders (0 stops all). Passes further arguments to the senders that it starts.
Logs: $LOGS/sender_instance_I.log    process ids: $LOGS/sender_instance_I.pid
TEXT
}

# Two calls at once would both start the missing senders. The senders must not inherit the lock, hence 9>&- at their start.
one_at_a_time() {
    command -v flock >/dev/null || return 0
    exec 9>"$LOGS/.lock"
    flock -w 120 9 || { echo "scale_sender: another call is still running" >&2; exit 1; }
}

pid_file() { echo "$LOGS/sender_instance_$1.pid"; }
log_file() { echo "$LOGS/sender_instance_$1.log"; }

# Prints the process id of sender $1 if it runs. The system reuses ids, so the pid file alone proves nothing.
running() {
    local pid
    pid=$(cat "$(pid_file "$1")" 2>/dev/null) && [[ $pid =~ ^[1-9][0-9]*$ ]] && is_our_sender "$pid" "$1" && echo "$pid"
}

is_our_sender() {
    local arguments
    if [ -d /proc/self ]; then
        # The senders of another checkout have the same names, but another working directory.
        [ "$(readlink "/proc/$1/cwd" 2>/dev/null)" = "$(pwd -P)" ] || return 1
        arguments=$(tr '\0' ' ' 2>/dev/null <"/proc/$1/cmdline") || return 1
    else
        arguments=$(ps -p "$1" -o args= 2>/dev/null) || return 1
    fi
    [[ " $arguments " =~ " sender.py --name "[^\ ]+"-$2 " ]]   # the host may have had another name
}

stop_above() {
    local file i pid
    local -A stopping=()
    for file in "$LOGS"/sender_instance_*.pid; do
        i=${file##*_}; i=${i%.pid}
        [[ $i =~ ^[1-9][0-9]*$ ]] && ((i > $1)) || continue
        if pid=$(running "$i"); then
            kill -TERM "$pid" && stopping[$i]=$pid
        else
            rm -f "$file"
        fi
    done
    ((${#stopping[@]})) || return 0
    echo "stopping ${#stopping[@]} gracefully"

    local patience_s=$(($(grace_s) + 4))
    local deadline=$((SECONDS + patience_s))
    while drop_ended && ((${#stopping[@]} && SECONDS < deadline)); do sleep 0.1; done
    for i in "${!stopping[@]}"; do
        echo "sender $i did not stop within $patience_s s: killed" >&2
        kill -KILL "${stopping[$i]}" 2>/dev/null || true
        rm -f "$(pid_file "$i")"
    done
}

# Removes ended senders from `stopping` (of stop_above), with their pid files.
drop_ended() {
    local i
    for i in "${!stopping[@]}"; do
        running "$i" >/dev/null || { rm -f "$(pid_file "$i")"; unset "stopping[$i]"; }
    done
}

# The sender's SHUTDOWN_GRACE, from the environment or .env, rounded up to whole seconds.
grace_s() {
    local grace=${SHUTDOWN_GRACE:-}
    if [ -z "$grace" ] && [ -r .env ]; then
        grace=$(sed -n -E "s/^[[:space:]]*(export[[:space:]]+)?SHUTDOWN_GRACE[[:space:]]*=[[:space:]]*[\"']?([0-9.]+).*/\2/p" \
            .env | tail -n 1)
    fi
    [[ $grace =~ ^([0-9]{1,6})(\.[0-9]*)?$ ]] || { echo 8; return; }
    echo $((10#${BASH_REMATCH[1]} + (${#BASH_REMATCH[2]} > 1)))
}

start_up_to() {
    local python=python3 i pid
    [ ! -x .venv/bin/python ] || python=.venv/bin/python
    local -a started=() failed=() log_starts=()
    for ((i = 1; i <= $1; i++)); do
        running "$i" >/dev/null && continue
        start "$i" "$python" "${@:2}"
        started+=("$i")
    done

    local -a starting=(${started[@]+"${started[@]}"})
    local deadline=$((SECONDS + START_S))
    while drop_started && ((${#starting[@]} && SECONDS < deadline)); do sleep 0.1; done
    for i in ${started[@]+"${started[@]}"}; do
        running "$i" >/dev/null && continue
        rm -f "$(pid_file "$i")"
        failed+=("$i")
        echo "sender $i ended: $(tail -n 1 "$(log_file "$i")")" >&2
    done
    echo "$(($1 - ${#failed[@]})) running, ${#started[@]} of them started now; logs in $LOGS/"
    ((${#failed[@]} == 0))
}

# Removes senders from `starting` (of start_up_to) that have connected or ended.
drop_started() {
    local i
    for i in "${!starting[@]}"; do
        if ! running "${starting[i]}" >/dev/null || has_started "${starting[i]}"; then unset "starting[$i]"; fi
    done
}

has_started() { grep -q '"event": "sender_started"' < <(tail -c "+${log_starts[$1]}" "$(log_file "$1")"); }

start() {
    local i=$1 python=$2
    shift 2
    # A new session, so that closing this terminal, or Ctrl-C in it, does not end the senders.
    local -a detach=(nohup)
    ! command -v setsid >/dev/null || detach=(setsid)
    touch "$(log_file "$i")"
    log_starts[i]=$(($(wc -c <"$(log_file "$i")") + 1))
    "${detach[@]}" "$python" sender.py --name "$HOST-$i" "$@" >>"$(log_file "$i")" 2>&1 </dev/null 9>&- &
    echo $! >"$(pid_file "$i")"
}

main "$@"
