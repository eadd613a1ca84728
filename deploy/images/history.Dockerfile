# syntax=docker/dockerfile:1
# History: what conversations remember.
#
#   docker build -f deploy/images/history.Dockerfile -t chatmesh-history .        in the repository's root
#
# MONGODB_URL names its store. Without it the embedded one is used, which needs a volume at /var/lib/chatmesh.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG UV_LINK_MODE=copy
ARG UV_COMPILE_BYTECODE=1
ENV UV_CACHE_DIR=/var/cache/uv
WORKDIR /build
COPY requirements/bootstrap.lock ./
RUN python -m pip install --quiet --no-cache-dir --target /opt/uv --require-hashes -r bootstrap.lock
COPY requirements/history.lock requirements/model.lock ./
RUN --mount=type=cache,target=/var/cache/uv \
    python -m venv --without-pip /opt/chatmesh/venv \
    && /opt/uv/bin/uv pip sync --quiet --python /opt/chatmesh/venv/bin/python --require-hashes history.lock model.lock

WORKDIR /opt/chatmesh/app
COPY deploy/images/healthcheck.py ./
COPY shared shared
COPY services/__init__.py services/
COPY services/history services/history
# The files have the modes of the checkout, and a read-only root never gets what Python compiles at run time.
RUN python -m compileall -q . \
    && chmod -R a+rX,go-w .

FROM ${PYTHON_IMAGE}
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="chatmesh-history" \
      org.opencontainers.image.description="chatmesh: records responses and conversations" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENV PATH=/opt/chatmesh/venv/bin:${PATH} \
    HOME=/tmp USER=chatmesh \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    CHATMESH_DATA_DIR=/var/lib/chatmesh \
    CHATMESH_LOG_FORMAT=json \
    CHATMESH_MANAGEMENT_HOST=0.0.0.0 CHATMESH_MANAGEMENT_PORT=9464
RUN install -d -o 10001 -g 10001 /var/lib/chatmesh
WORKDIR /opt/chatmesh/app
COPY --from=build /opt/chatmesh/venv /opt/chatmesh/venv
COPY --from=build /opt/chatmesh/app /opt/chatmesh/app
# A number, so that an orchestrator can tell that it is not root.
USER 10001:10001
EXPOSE 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=4s --start-period=60s --retries=3 CMD ["python", "healthcheck.py"]
ENTRYPOINT ["python", "-m", "services.history"]
