"""From a recipe to the root of its image, by carrying out its steps here."""

import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

from deploy.images.context import Context, copy_from_stage
from deploy.images.recipe import Copy, Image, Recipe, RecipeError, Run
from deploy.images.roots import Mount, Root, environment_inside

_OF_THIS_MACHINE = ("PIP_", "UV_", "SSL_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
"""How this machine reaches its package index: an engine gets it from its own configuration, never from an image."""


@dataclass(frozen=True, slots=True)
class Built:
    """An image: what it says of itself, and its root. `mounts` belong to the root: what its files point to."""

    image: Image
    root: Root
    mounts: tuple[Mount, ...]


@dataclass(frozen=True, slots=True)
class Builder:
    """Builds in `folder`. `cache`: the folder of this machine that cache mounts show; `base`, `python`: see Root."""

    folder: Path
    context: Context
    cache: Path
    base: Path = Path("/")
    python: Path | None = Path(sys.base_prefix)

    def build(self, recipe: Recipe) -> Built:
        """Raises RecipeError if a step fails, with its last lines."""
        uses = Counter((step.stage, source) for step in _copies(recipe) for source in step.sources)
        roots: dict[str, Root] = {}
        caches: dict[str, Mount] = {}
        for stage in recipe.stages:
            if stage.base in roots:
                raise RecipeError(f"a stage that begins as '{stage.base}' is not rehearsed: copy from it")
            root = roots[stage.name] = Root(self.folder / stage.name, base=self.base, python=self.python)
            for step in stage.steps:
                if isinstance(step, Copy):
                    self._copy(step, root, roots, {source for _, source in uses if uses[step.stage, source] == 1})
                else:
                    caches.update({target: Mount(self.cache, target) for target in step.caches})
                    self._run(step, root)
        return Built(recipe.image, root, tuple(caches.values()))

    def _copy(self, step: Copy, root: Root, roots: Mapping[str, Root], once: Set[str]) -> None:
        """`once`: what nobody else copies from that stage; it is moved, because the stage is thrown away."""
        target, into = root.path(step.target), step.target.endswith("/")
        if step.stage is None:
            self.context.copy(step.sources, target, into=into)
            return
        for source in step.sources:
            copy_from_stage(roots[step.stage].path(source), target, into=into, move=source in once)

    def _run(self, step: Run, root: Root) -> None:
        mounts = [Mount(self.cache, target, writable=True) for target in step.caches]
        argv = root.command(("/bin/sh", "-c", step.command), user=step.user, folder=step.folder, mounts=mounts)
        with tempfile.TemporaryFile() as output:
            environment = {**_of_this_machine(), **environment_inside(step.environment)}
            code = subprocess.run(argv, env=environment, stdout=output, stderr=output, check=False).returncode
            if code != 0:
                output.seek(0)
                lines = output.read().decode(errors="replace").splitlines()[-30:]
                raise RecipeError(f"RUN {step.command[:200]} ended with {code}:\n" + "\n".join(lines))


def _copies(recipe: Recipe) -> Iterator[Copy]:
    return (step for stage in recipe.stages for step in stage.steps if isinstance(step, Copy))


def _of_this_machine() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.upper().startswith(_OF_THIS_MACHINE)}
