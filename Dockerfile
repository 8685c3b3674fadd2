# One image for all services; the command says which. Build: docker build -t sms-simulator .
ARG PYTHON_IMAGE=python:3.13-slim

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1
RUN python -m venv /opt/poetry \
 && /opt/poetry/bin/pip install --quiet poetry==2.5.1 poetry-plugin-export==1.10.0
WORKDIR /build
# A separate layer for the dependencies: it is rebuilt only when the lock changes.
COPY pyproject.toml poetry.lock ./
RUN /opt/poetry/bin/poetry export --format requirements.txt --output requirements.txt \
 && python -m venv /opt/venv \
 && /opt/venv/bin/pip install --quiet --only-binary :all: --require-hashes --no-deps --requirement requirements.txt \
 && /opt/venv/bin/pip uninstall --quiet --yes pip \
 && find /opt/venv -type d -name tests -path '*/site-packages/*' -prune -exec rm -r {} +

FROM ${PYTHON_IMAGE}
RUN groupadd --system --gid 10001 smsim \
 && useradd --system --uid 10001 --gid smsim --no-create-home --shell /usr/sbin/nologin smsim
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=/app HEALTH_FILE=/tmp/smsim.alive
COPY --from=build /opt/venv /opt/venv
WORKDIR /app
COPY . .
RUN python -m compileall -q .
USER smsim
STOPSIGNAL SIGTERM
# Healthy: Redis has answered the service within the last half minute.
HEALTHCHECK --interval=5s --timeout=3s --start-period=40s --retries=3 CMD ["python", "-m", "common.health"]
CMD ["python", "-m", "simulation.cli", "--help"]
ARG VERSION=0.0.0 REVISION=unknown
LABEL org.opencontainers.image.title="SMS alert pipeline simulator" \
      org.opencontainers.image.description="Producer, sender, monitor and gateway over RabbitMQ and Redis" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
