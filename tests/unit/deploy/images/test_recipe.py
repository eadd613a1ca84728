"""What a Dockerfile comes to: stages, variables in place, and nothing that is silently left out."""

import pytest

from deploy.images.recipe import BASE_PATH, Copy, Recipe, RecipeError, Run, read_recipe

DOCKERFILE = """\
# syntax=docker/dockerfile:1
ARG BASE=python:3.11-slim
FROM ${BASE} AS build
ARG MODE=copy
ENV CACHE=/var/cache LINKS=${MODE}
WORKDIR /build
COPY a.lock b.lock ./
# a comment
RUN --mount=type=cache,target=/var/cache \\
    install "$MODE" \\
    && done
WORKDIR app
COPY shared shared
COPY one.py other.py

FROM ${BASE}
LABEL title="a b" mode="${MODE}"
ENV PATH=/venv/bin:${PATH}
COPY --from=build /build/app /app
USER 10001:10001
EXPOSE 8080 9464
STOPSIGNAL SIGINT
HEALTHCHECK --interval=5s --start-period=60s CMD ["python", "check.py"]
ENTRYPOINT ["python", "-m", "x"]
CMD ["--help"]
"""


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return read_recipe(DOCKERFILE, {"BASE": "python:3.12"})


def test_stages_have_names_and_bases(recipe: Recipe) -> None:
    assert [(stage.name, stage.base) for stage in recipe.stages] == [("build", "python:3.12"), ("1", "python:3.12")]


def test_steps_come_in_order_with_everything_in_place(recipe: Recipe) -> None:
    copied, run, *others = recipe.stages[0].steps
    assert copied == Copy(("a.lock", "b.lock"), "/build/")
    assert isinstance(run, Run)
    assert run.command.split() == ["install", '"$MODE"', "&&", "done"], "the shell expands it, not the engine"
    assert run.caches == ("/var/cache",)
    assert (run.folder, run.user) == ("/build", "0")
    assert run.environment == {"PATH": BASE_PATH, "MODE": "copy", "CACHE": "/var/cache", "LINKS": "copy"}
    assert others == [Copy(("shared",), "/build/app/shared"), Copy(("one.py",), "/build/app/other.py")]


def test_a_stage_begins_without_what_another_has_set(recipe: Recipe) -> None:
    assert recipe.image.labels == {"title": "a b", "mode": ""}
    assert recipe.image.environment == {"PATH": f"/venv/bin:{BASE_PATH}"}
    assert recipe.stages[1].steps == (Copy(("/build/app",), "/app", "build"),)


def test_the_image_says_how_it_runs(recipe: Recipe) -> None:
    image = recipe.image
    assert (image.user, image.ports, image.stop_signal) == ("10001:10001", (8080, 9464), "SIGINT")
    assert image.healthcheck == ("python", "check.py")
    assert (*image.entrypoint, *image.command) == ("python", "-m", "x", "--help")


def test_build_arguments_reach_the_stage_that_declares_them() -> None:
    run = read_recipe("FROM x\nARG A=1\nRUN true\nARG B\nENV B=3\n", {"A": "2", "B": "4"}).stages[0].steps[0]
    assert isinstance(run, Run)
    assert run.environment == {"PATH": BASE_PATH, "A": "2"}


def test_a_stage_may_stand_on_an_earlier_one() -> None:
    recipe = read_recipe("FROM x AS a\nENV A=1\nFROM a\nENTRYPOINT []\nHEALTHCHECK NONE\n")
    assert recipe.image.environment["A"] == "1"
    assert recipe.image.healthcheck == ()


@pytest.mark.parametrize(
    ("text", "trouble"),
    [
        ("FROM x\nADD a b\n", "line 2, ADD: is not rehearsed"),
        ("RUN true\n", "stands before the first FROM"),
        ("FROM x\nCOPY --from=y a b\n", "no stage 'y'"),
        ("FROM x\nCOPY --chown=1 a b\n", "--chown is not rehearsed"),
        ("FROM x\nCOPY a\n", "needs a source and a target"),
        ("FROM x\nRUN --network=none true\n", "--network is not rehearsed"),
        ("FROM x\nRUN --mount=type=secret,id=a true\n", "type=cache,target=FOLDER"),
        ("FROM x\nRUN --mount=type=cache,target=/a --mount=type=cache,target=/b true\n", "comes twice"),
        ("FROM x\nENTRYPOINT python -m x\n", "a shell would stand between"),
        ("FROM x\nHEALTHCHECK CMD python check.py\n", "a shell would stand between"),
        ("FROM x\nEXPOSE a\n", "line 2, EXPOSE"),
        ("FROM x AS\n", "is not understood"),
        ("# nothing\n", "there is no FROM"),
    ],
)
def test_what_cannot_be_followed_is_named(text: str, trouble: str) -> None:
    with pytest.raises(RecipeError, match=trouble.replace("(", r"\(")):
        read_recipe(text)
