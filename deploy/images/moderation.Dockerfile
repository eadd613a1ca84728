# syntax=docker/dockerfile:1
# Moderation: owns partitions of the journal, screens, publishes, dispatches.
#
#   docker build -f deploy/images/moderation.Dockerfile -t chatmesh-moderation .        in the repository's root
#
# A policy of one's own is mounted and named by CHATMESH_POLICY. Models of the Hub that it names go to /var/cache/chatmesh.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG UV_LINK_MODE=copy
ARG UV_COMPILE_BYTECODE=1
# default: PyPI's torch, which for Linux has CUDA with it (gigabytes), by hash. cpu: torch without CUDA from PyTorch's own
# index, the one wheel without a hash, because PyPI does not serve it.
ARG TORCH=default
ENV UV_CACHE_DIR=/var/cache/uv
WORKDIR /build
COPY requirements/bootstrap.lock ./
RUN python -m pip install --quiet --no-cache-dir --target /opt/uv --require-hashes -r bootstrap.lock
COPY requirements/moderation.lock requirements/moderation-cpu.lock requirements/encoder.lock ./
RUN --mount=type=cache,target=/var/cache/uv \
    python -m venv --without-pip /opt/chatmesh/venv \
    && case "${TORCH}" in default) lock=moderation.lock ;; cpu) lock=moderation-cpu.lock ;; *) exit 2 ;; esac \
    && /opt/uv/bin/uv pip sync --quiet --python /opt/chatmesh/venv/bin/python --require-hashes "${lock}" encoder.lock \
    && if [ "${TORCH}" = cpu ]; then \
        /opt/uv/bin/uv pip install --quiet --python /opt/chatmesh/venv/bin/python --no-deps --torch-backend cpu \
            "$(sed -n 's/^\(torch==[^ ;]*\).*/\1/p' moderation.lock)"; \
    fi

WORKDIR /opt/chatmesh/app
COPY deploy/images/healthcheck.py ./
COPY shared shared
COPY services/__init__.py services/
# The engines: a policy may have a language model judge.
COPY services/inference services/inference
COPY services/moderation services/moderation
# The files have the modes of the checkout, and a read-only root never gets what Python compiles at run time.
RUN python -m compileall -q . \
    && chmod -R a+rX,go-w .

FROM ${PYTHON_IMAGE}
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="chatmesh-moderation" \
      org.opencontainers.image.description="chatmesh: screens what models say before it is public" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENV PATH=/opt/chatmesh/venv/bin:${PATH} \
    HOME=/tmp USER=chatmesh \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HF_HOME=/var/cache/chatmesh/hub \
    CHATMESH_LOG_FORMAT=json \
    CHATMESH_MANAGEMENT_HOST=0.0.0.0 CHATMESH_MANAGEMENT_PORT=9464
RUN install -d -o 10001 -g 10001 /var/cache/chatmesh
WORKDIR /opt/chatmesh/app
COPY --from=build /opt/chatmesh/venv /opt/chatmesh/venv
COPY --from=build /opt/chatmesh/app /opt/chatmesh/app
# A number, so that an orchestrator can tell that it is not root.
USER 10001:10001
EXPOSE 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=4s --start-period=180s --retries=3 CMD ["python", "healthcheck.py"]
ENTRYPOINT ["python", "-m", "services.moderation"]
