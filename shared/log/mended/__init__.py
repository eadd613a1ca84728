"""What aiokafka gets wrong, and we cannot live with: four of its classes, each with methods of ours over its own.

Importing this puts them in their places, under the names by which aiokafka calls them: its clients take no class for
any of them. Each has a test that fails once aiokafka is right, or calls it by another name; then the module goes.
"""

from shared.log.mended import batches, bootstrap, connections, coordination

__all__ = ["batches", "bootstrap", "connections", "coordination"]
