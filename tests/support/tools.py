"""Tools of deploy.toolbox for tests."""

import os
from pathlib import Path

import pytest

from deploy.toolbox import ToolMissingError, tool_path

REQUIRE = "CHATMESH_REQUIRE_TOOLS"
"""Set to 1, tests that need a tool fail where it is missing instead of being skipped."""


def demanded() -> bool:
    """Whether a missing tool is a failure."""
    return os.environ.get(REQUIRE, "") not in ("", "0")


def required_tool(name: str) -> Path:
    """Where it lies. Where it is missing the test is skipped with the reason, or fails if that was demanded."""
    try:
        return tool_path(name)
    except ToolMissingError as error:
        if demanded():
            pytest.fail(f"{REQUIRE} asks for the tests that need {name}, and they cannot run here: {error}")
        pytest.skip(f"no {name} here: {error}")
