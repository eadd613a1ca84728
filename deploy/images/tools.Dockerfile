# syntax=docker/dockerfile:1
# What operators run: topics, dead letters, the live view, a chat, what moderation did.
#
#   docker build -f deploy/images/tools.Dockerfile -t chatmesh-tools .        in the repository's root
#
#   docker run --rm -e KAFKA_BOOTSTRAP_SERVERS=... chatmesh-tools deploy.topics check
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG UV_LINK_MODE=copy
ARG UV_COMPILE_BYTECODE=1
ENV UV_CACHE_DIR=/var/cache/uv
WORKDIR /build
COPY requirements/bootstrap.lock ./
RUN python -m pip install --quiet --no-cache-dir --target /opt/uv --require-hashes -r bootstrap.lock
COPY requirements/tools.lock ./
RUN --mount=type=cache,target=/var/cache/uv \
    python -m venv --without-pip /opt/chatmesh/venv \
    && /opt/uv/bin/uv pip sync --quiet --python /opt/chatmesh/venv/bin/python --require-hashes tools.lock

WORKDIR /opt/chatmesh/app
COPY shared shared
COPY deploy/__init__.py deploy/
COPY deploy/brokers deploy/brokers
COPY deploy/local deploy/local
COPY deploy/terminal deploy/terminal
COPY deploy/topics deploy/topics
COPY services/__init__.py services/
COPY services/moderation/__init__.py services/moderation/
COPY services/moderation/report services/moderation/report
# The files have the modes of the checkout, and a read-only root never gets what Python compiles at run time.
RUN python -m compileall -q . \
    && chmod -R a+rX,go-w .

FROM ${PYTHON_IMAGE}
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="chatmesh-tools" \
      org.opencontainers.image.description="chatmesh: operators' tools" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENV PATH=/opt/chatmesh/venv/bin:${PATH} \
    HOME=/tmp USER=chatmesh \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /opt/chatmesh/app
COPY --from=build /opt/chatmesh/venv /opt/chatmesh/venv
COPY --from=build /opt/chatmesh/app /opt/chatmesh/app
# A number, so that an orchestrator can tell that it is not root.
USER 10001:10001
HEALTHCHECK NONE
ENTRYPOINT ["python", "-m"]
CMD ["deploy.topics", "--help"]
