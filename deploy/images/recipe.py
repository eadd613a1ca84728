"""A Dockerfile as data: what each stage copies and runs, with every variable in place, and what the image is like.

Pure. `dockerfile-parse` reads the file; here stand the rules of the Dockerfile reference for stages, ARG and ENV, as
far as our files use them. An instruction or a flag beyond that is an error, lest a rehearsal leave something out.
"""

import json
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import PurePosixPath
from typing import TypeAlias

from dockerfile_parse import DockerfileParser
from dockerfile_parse.util import WordSplitter, extract_key_values

BASE_PATH = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
"""PATH in the official Python images."""
_FLAG = re.compile(r"--([a-z-]+)=(\S+)\s*")


class RecipeError(Exception):
    """A Dockerfile that cannot be followed; the message names the line."""


@dataclass(frozen=True, slots=True)
class Run:
    """A shell command. `caches`: folders that an engine mounts from a cache of its own while it runs."""

    command: str
    environment: Mapping[str, str]
    folder: str
    user: str
    caches: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Copy:
    """`sources` of the build context, or absolute paths of another stage, to `target`.

    A target that ends in a slash is a folder that the sources get into; a source that is a folder gives its content.
    """

    sources: tuple[str, ...]
    target: str
    stage: str | None = None


Step: TypeAlias = Run | Copy


@dataclass(frozen=True, slots=True)
class Image:
    """What an image says of how it runs. `healthcheck` is a command, empty for none."""

    environment: Mapping[str, str] = field(default_factory=lambda: {"PATH": BASE_PATH})
    folder: str = "/"
    user: str = "0"
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    healthcheck: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    stop_signal: str = "SIGTERM"


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage; `base` names an image or an earlier stage."""

    name: str
    base: str
    steps: tuple[Step, ...]
    image: Image


@dataclass(frozen=True, slots=True)
class Recipe:
    """A whole Dockerfile; its last stage is the image."""

    stages: tuple[Stage, ...]

    @property
    def image(self) -> Image:
        return self.stages[-1].image


def read_recipe(text: str, arguments: Mapping[str, str] | None = None) -> Recipe:
    """The Dockerfile `text`, built with `arguments` (`--build-arg`). Raises RecipeError."""
    reader = _Reader(dict(arguments or {}))
    for instruction in DockerfileParser(fileobj=BytesIO(text.encode())).structure:
        name = instruction["instruction"]
        if name == "COMMENT":
            continue
        try:
            reader.take(name, instruction["value"])
        except (RecipeError, ValueError) as error:
            raise RecipeError(f"line {instruction['startline'] + 1}, {name}: {error}") from error
    return reader.recipe()


class _Reader:
    """What the instructions so far come to."""

    def __init__(self, arguments: dict[str, str]) -> None:
        self._given = arguments
        self._before: dict[str, str] = {}
        self._stages: list[Stage] = []
        self._steps: list[Step] = []
        self._arguments: dict[str, str] = {}
        self._image = Image()
        self._handlers: dict[str, Callable[[str], None]] = {
            "FROM": self._from,
            "ARG": self._arg,
            "ENV": self._env,
            "LABEL": self._label,
            "WORKDIR": self._workdir,
            "COPY": self._copy,
            "RUN": self._run,
            "USER": self._user,
            "EXPOSE": self._expose,
            "STOPSIGNAL": self._stop_signal,
            "HEALTHCHECK": self._healthcheck,
            "ENTRYPOINT": self._entrypoint,
            "CMD": self._command,
        }

    def take(self, name: str, value: str) -> None:
        """One instruction. Raises RecipeError, or ValueError for a malformed one."""
        if name not in self._handlers:
            raise RecipeError("is not rehearsed")
        if not self._stages and name not in ("FROM", "ARG"):
            raise RecipeError("stands before the first FROM")
        self._handlers[name](value)
        if self._stages:
            self._stages[-1] = replace(self._stages[-1], steps=tuple(self._steps), image=self._image)

    def recipe(self) -> Recipe:
        if not self._stages:
            raise RecipeError("there is no FROM")
        return Recipe(tuple(self._stages))

    def _expanded(self, value: str) -> str:
        words = WordSplitter(value, args=self._arguments, envs=self._image.environment)
        return str(words.dequote())

    def _from(self, value: str) -> None:
        words = WordSplitter(value, args=self._before, envs={}).dequote().split()
        base, name = words[0], str(len(self._stages))
        if len(words) == 3 and words[1].upper() == "AS":
            name = words[2]
        elif len(words) != 1:
            raise RecipeError(f"'{value}' is not understood")
        earlier = {stage.name: stage.image for stage in self._stages}
        self._steps, self._arguments, self._image = [], {}, earlier.get(base, Image())
        self._stages.append(Stage(name, base, (), self._image))

    def _arg(self, value: str) -> None:
        name, _, default = value.partition("=")
        if self._stages:
            self._arguments[name] = self._given.get(name, self._expanded(default) or self._before.get(name, ""))
        else:
            self._before[name] = self._given.get(name, WordSplitter(default).dequote())

    def _pairs(self, value: str) -> dict[str, str]:
        return dict(extract_key_values(True, self._arguments, dict(self._image.environment), value))

    def _env(self, value: str) -> None:
        self._image = replace(self._image, environment={**self._image.environment, **self._pairs(value)})

    def _label(self, value: str) -> None:
        self._image = replace(self._image, labels={**self._image.labels, **self._pairs(value)})

    def _workdir(self, value: str) -> None:
        self._image = replace(self._image, folder=str(PurePosixPath(self._image.folder, self._expanded(value))))

    def _copy(self, value: str) -> None:
        flags, rest = _flags(value)
        stage = flags.pop("from", None)
        _none_left(flags)
        if stage is not None and stage not in [other.name for other in self._stages[:-1]]:
            raise RecipeError(f"there is no stage '{stage}' before this one")
        *sources, target = shlex.split(self._expanded(rest))
        if not sources:
            raise RecipeError("needs a source and a target")
        folder = target.endswith(("/", ".")) or len(sources) > 1
        where = str(PurePosixPath(self._image.folder, target)) + ("/" if folder else "")
        self._steps.append(Copy(tuple(sources), where, stage))

    def _run(self, value: str) -> None:
        flags, command = _flags(value)
        caches = (_cache(flags.pop("mount")),) if "mount" in flags else ()
        _none_left(flags)
        environment = {**self._arguments, **self._image.environment}
        self._steps.append(Run(command, environment, self._image.folder, self._image.user, caches))

    def _user(self, value: str) -> None:
        self._image = replace(self._image, user=self._expanded(value))

    def _expose(self, value: str) -> None:
        ports = tuple(int(port) for port in self._expanded(value).split())
        self._image = replace(self._image, ports=(*self._image.ports, *ports))

    def _stop_signal(self, value: str) -> None:
        self._image = replace(self._image, stop_signal=self._expanded(value))

    def _healthcheck(self, value: str) -> None:
        _, rest = _flags(value)  # its times are the engine's business
        kind, _, command = rest.partition(" ")
        if kind not in ("NONE", "CMD"):
            raise RecipeError(f"'{kind}' is neither NONE nor CMD")
        self._image = replace(self._image, healthcheck=_exec_form(command) if kind == "CMD" else ())

    def _entrypoint(self, value: str) -> None:
        self._image = replace(self._image, entrypoint=_exec_form(value), command=())

    def _command(self, value: str) -> None:
        self._image = replace(self._image, command=_exec_form(value))


def _flags(value: str) -> tuple[dict[str, str], str]:
    """`--name=value` before the rest. Raises RecipeError for one that comes twice."""
    flags: dict[str, str] = {}
    while (match := _FLAG.match(value)) is not None:
        if match[1] in flags:
            raise RecipeError(f"--{match[1]} comes twice")
        flags[match[1]], value = match[2], value[match.end() :]
    return flags, value.strip()


def _none_left(flags: Mapping[str, str]) -> None:
    if flags:
        raise RecipeError(f"--{next(iter(flags))} is not rehearsed")


def _cache(mount: str) -> str:
    options = dict(option.partition("=")[::2] for option in mount.split(","))
    if options.get("type") != "cache" or set(options) != {"type", "target"}:
        raise RecipeError(f"--mount={mount} is not rehearsed; type=cache,target=FOLDER is")
    return options["target"]


def _exec_form(value: str) -> tuple[str, ...]:
    """A JSON list of words. A shell between the engine and the service would take the signals that are meant for it."""
    words = json.loads(value) if value.startswith("[") else None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise RecipeError(f"'{value}' is no list of words; a shell would stand between the engine and the program")
    return tuple(words)
