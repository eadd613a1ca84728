"""Roots and programs inside them, on images of a few lines: what a rehearsal shows, and that it would fail."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.images import roots
from deploy.images.building import Builder, Built
from deploy.images.containers import Container, ContainerError
from deploy.images.context import Context
from deploy.images.recipe import RecipeError, read_recipe
from deploy.images.roots import Mount
from tests.support.tools import REQUIRE

Build = Callable[[str], Built]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Builds a Dockerfile whose context holds one file, `given`."""
    if (trouble := roots.trouble()) is not None:
        if os.environ.get(REQUIRE, "") not in ("", "0"):
            pytest.fail(f"{REQUIRE} asks for containers without an engine, and there are none here: {trouble}")
        pytest.skip(f"no containers without an engine here: {trouble}")
    context, cache = tmp_path / "context", tmp_path / "cache"
    for folder in (context, cache):
        folder.mkdir()
    (context / ".dockerignore").write_text("*\n!given\n")
    (context / "given").write_text("given")
    return lambda text: Builder(tmp_path / "image", Context(context), cache).build(read_recipe(text))


@pytest.fixture
def started(build: Build, tmp_path: Path) -> Callable[[str], Container]:
    def start(text: str, **environment: str) -> Container:
        return Container("it", build(text), environment=environment, log_path=tmp_path / "log")

    return start


def test_an_image_is_what_its_last_stage_has(build: Build, tmp_path: Path) -> None:
    built = build("""\
FROM x AS build
WORKDIR /work
COPY given ./
ARG HOW=built
RUN --mount=type=cache,target=/cache cp given /cache/kept && printf "$HOW" > made
FROM x
COPY --from=build /work/made /opt/
""")
    assert built.root.path("/opt/made").read_text() == "built"
    assert not built.root.path("/work").exists()
    assert (tmp_path / "cache" / "kept").read_text() == "given"


def test_a_step_that_fails_ends_the_build_with_its_last_words(build: Build) -> None:
    with pytest.raises(RecipeError, match=r"(?s)ended with 3.*no such package"):
        build("FROM x\nRUN echo no such package >&2 && exit 3\n")


def test_a_stage_on_another_is_refused_rather_than_begun_without_its_files(build: Build) -> None:
    with pytest.raises(RecipeError, match="begins as 'a'"):
        build("FROM x AS a\nRUN touch /made\nFROM a\nRUN test -e /made\n")


def test_steps_cannot_change_this_machine(build: Build) -> None:
    with pytest.raises(RecipeError, match="Read-only file system"):
        build("FROM x\nRUN touch /usr/bin/changed\n")


def test_a_program_is_process_one_of_nobody_in_a_root_that_it_cannot_write(
    started: Callable[[str], Container],
) -> None:
    seen = "id -u; echo $$; grep CapEff /proc/self/status"
    script = f"{seen}; touch /tmp/a; touch /opt/a || echo cannot; ls /proc | grep -c ^[0-9]"
    image = f'FROM x\nRUN install -d -o 10001 /opt\nUSER 10001:10001\nENTRYPOINT ["sh", "-c", "{script}"]\n'
    said = started(image).run(30).splitlines()
    assert said[0:2] == ["10001", "1"]
    assert said[2].split() == ["CapEff:", "0000000000000000"]
    assert "cannot" in said
    assert int(said[-1]) <= 4, "it sees no process but its own"


def test_a_mounted_folder_is_written_into_where_it_may_be(build: Build, tmp_path: Path) -> None:
    built = build('FROM x\nUSER 10001:10001\nENTRYPOINT ["sh", "-c", "echo kept > /volume/file; echo no > /file"]\n')
    volume = tmp_path / "volume"
    volume.mkdir()
    os.chown(volume, 10001, 10001)
    mounts = [Mount(volume, "/volume", writable=True)]
    container = Container("it", built, environment={}, log_path=tmp_path / "log", mounts=mounts)
    with pytest.raises(ContainerError, match="Read-only file system"):
        container.run(30)
    assert (volume / "file").read_text() == "kept\n"


def test_one_that_ends_before_it_is_healthy_is_shown_with_its_last_words(started: Callable[[str], Container]) -> None:
    container = started(
        'FROM x\nHEALTHCHECK CMD ["false"]\nENTRYPOINT ["sh", "-c", "echo no module named x; exit 4"]\n'
    )
    container.start()
    with pytest.raises(ContainerError, match=r"(?s)ended with 4 before it was healthy.*no module named x"):
        container.wait_healthy(30)


def test_one_that_never_is_healthy_and_one_that_does_not_end(started: Callable[[str], Container]) -> None:
    container = started('FROM x\nHEALTHCHECK CMD ["false"]\nENTRYPOINT ["sleep", "60"]\n')
    container.start()
    try:
        with pytest.raises(ContainerError, match=r"was not healthy within 0\.5 s"):
            container.wait_healthy(0.5)
        # Process 1 of a namespace gets only the signals that it has handlers for, and sleep has none.
        with pytest.raises(ContainerError, match=r"still ran 0\.5 s after SIGTERM"):
            container.stop(0.5)
    finally:
        container.kill()
