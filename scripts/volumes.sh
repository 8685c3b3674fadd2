# Sourced by backup.sh and restore.sh: the stack's volumes, as docker-compose names them.
project=${COMPOSE_PROJECT_NAME:-$(basename "$PWD" | tr '[:upper:]' '[:lower:]' | tr -cd 'a-z0-9_-')}
image=${REDIS_IMAGE:-$(sed -n 's/^REDIS_IMAGE=//p' .env 2>/dev/null)}

refuse_while_running() {
    running=$(docker ps --quiet --filter "label=com.docker.compose.project=$project")
    [ -z "$running" ] || { echo "the stack runs: docker-compose stop first, so that both volumes are of one moment" >&2; exit 1; }
}

# Runs a command, as root, with both volumes under /volumes.
on_volumes() {
    docker run --rm --interactive --user root --entrypoint "" --network none \
        --volume "${project}_rabbitmq-data:/volumes/rabbitmq" --volume "${project}_redis-data:/volumes/redis" \
        "${image:-redis:7}" "$@"
}
