# shellcheck shell=sh
# Sourced by backup.sh and restore.sh: the stack's volumes, as docker-compose names them.
. scripts/from-env.sh

project=${COMPOSE_PROJECT_NAME:-$(from_env COMPOSE_PROJECT_NAME)}
project=${project:-$(basename "$PWD" | tr '[:upper:]' '[:lower:]' | tr -cd 'a-z0-9_-')}
image=${REDIS_IMAGE:-$(from_env REDIS_IMAGE)}

# Docker would create a missing volume, empty.
refuse_other_volumes() {
    for volume in "${project}_rabbitmq-data" "${project}_redis-data"; do
        docker volume inspect "$volume" >/dev/null 2>&1 || {
            echo "no volume $volume: check COMPOSE_PROJECT_NAME; if there was no stack yet: docker-compose up --no-start" >&2
            exit 1
        }
    done
    ! docker volume inspect "${project}_rabbitmq2-data" >/dev/null 2>&1 ||
        { echo "this is a cluster with more volumes: these scripts serve a single node only" >&2; exit 1; }
}

refuse_while_running() {
    running=$(docker ps --quiet --filter "label=com.docker.compose.project=$project")
    [ -z "$running" ] || { echo "the stack runs: docker-compose stop first, so that both volumes are from the same moment" >&2; exit 1; }
}

# Runs a command, as root, with both volumes under /volumes.
on_volumes() {
    docker run --rm --interactive --user root --entrypoint "" --network none \
        --volume "${project}_rabbitmq-data:/volumes/rabbitmq" --volume "${project}_redis-data:/volumes/redis" \
        "${image:-redis:8}" "$@"
}
