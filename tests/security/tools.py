"""Operators' programs, run as somebody."""

import os
import subprocess
import sys

from tests.support.mesh import ROOT, Mesh

TIMEOUT_S = 60


def run_tool(mesh: Mesh, principal: str, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m module arguments`, which reaches the mesh's broker as `principal`."""
    environment = {
        **os.environ,
        **mesh.broker.access(principal),
        "KAFKA_BOOTSTRAP_SERVERS": mesh.broker.bootstrap,
        "CHATMESH_NAMESPACE": mesh.namespace,
        "CHATMESH_PARTITIONS": str(mesh.partitions),
    }
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
