"""`python -m deploy.images.rehearse [IMAGE...]`: build and run the images here, where no engine is.

Every step of the Dockerfiles is carried out in a root of its own, with the packages of the locks in a fresh
environment; then the services run as in containers (process 1, user 10001, a read-only root, no capabilities) beside
the embedded broker, and answer a request if all four are there. A package, a file or a right that is missing shows.
Needs Linux and root; quick where uv has the packages in its cache.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from deploy.brokers import BrokerError
from deploy.brokers.embedded import EmbeddedBroker
from deploy.images import roots
from deploy.images.containers import ContainerError
from deploy.images.recipe import RecipeError
from deploy.images.rehearsal import IMAGES, QUICK, REPOSITORY, SERVICES, Rehearsal, build_all

_WORK = REPOSITORY / "build" / "images"


def main(argv: Sequence[str]) -> int:
    """Exit status 0 if all was well, 1 with what was not, 130 after Ctrl-C."""
    options = _parse(argv)
    if (trouble := roots.trouble()) is not None:
        print(f"error: images cannot be rehearsed on this machine: {trouble}", file=sys.stderr)
        return 1
    try:
        rehearse(options.images or IMAGES, dict(options.build_arg), options.base)
    except (RecipeError, ContainerError, BrokerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def rehearse(images: Sequence[str], arguments: dict[str, str], base: Path) -> None:
    """Raises RecipeError, ContainerError and BrokerError."""
    begun_s = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - begun_s:6.1f} s  {line}", flush=True)

    try:
        built = build_all(images, _WORK, {**QUICK, **arguments}, say, base)
        with (
            tempfile.TemporaryDirectory() as folder,
            EmbeddedBroker() as broker,
            Rehearsal(built, broker, Path(folder), say) as rehearsal,
        ):
            rehearsal.start()
            if set(SERVICES) <= set(images):
                say(f"answer: {rehearsal.ask()!r}")
            rehearsal.stop()
    finally:
        shutil.rmtree(_WORK, ignore_errors=True)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m deploy.images.rehearse", description=__doc__)
    parser.add_argument("images", nargs="*", type=_image, metavar="IMAGE", help=f"of {', '.join(IMAGES)}; all of them")
    parser.add_argument(
        "--build-arg", action="append", default=[], type=_pair, metavar="NAME=VALUE", help="as `docker build` has it"
    )
    parser.add_argument(
        "--base",
        type=Path,
        default=Path("/"),
        metavar="FOLDER",
        help="the root of a Debian that stands in for the base image's (debootstrap makes one); this machine's",
    )
    return parser.parse_args(argv)


def _image(text: str) -> str:
    if text not in IMAGES:
        raise argparse.ArgumentTypeError(f"there is no image '{text}', but {', '.join(IMAGES)}")
    return text


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=VALUE")
    return name, value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
