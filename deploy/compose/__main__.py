"""`python3 -m deploy.compose [--secure]`: write the secrets that compose.yaml mounts, where they are not there yet.

They lie in deploy/compose/secrets, which git and image builds leave out. Whoever runs it again keeps what is there:
MongoDB and Grafana know their passwords from their first start. It needs the standard library alone; `--secure`, the
certificates of compose.secure.yaml, needs the environment of requirements/dev.lock.
"""

import argparse
import secrets
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).parent / "secrets"
BROKER_HOST = "kafka"
PRINCIPALS = ("super", "admin", "gateway", "moderation", "inference", "history")
"""Who has a name at the broker: whoever grants rights, the operators, the services."""
_BYTES = 24


def main(argv: Sequence[str]) -> int:
    """0, or 1 where the folder cannot be written."""
    parser = argparse.ArgumentParser(prog="python3 -m deploy.compose", description=__doc__)
    parser.add_argument("--secure", action="store_true", help="also the certificates of compose.secure.yaml")
    options = parser.parse_args(argv)
    try:
        made = write_missing(FOLDER)
        if options.secure:
            made += write_certificates(FOLDER)
    except ImportError as error:
        print(f"error: {error}: --secure needs .venv/bin/python (`make unit` installs it)", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: the secrets cannot be written: {error}", file=sys.stderr)
        return 1
    for path in made:
        print(f"made {path}")
    print(f"{FOLDER / 'api-keys.yaml'} holds the key of the first client; {FOLDER / 'grafana-password'} is admin's")
    return 0


def write_missing(folder: Path) -> list[Path]:
    """Write every secret that `folder` lacks; what was written. Raises OSError.

    The folder is the owner's alone, also one that was there before. The files are readable for all, whatever the umask,
    because containers see them as they are here, and run as others than their owner.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o700)
    history = _kept(folder / "mongodb-history-password") or secrets.token_hex(_BYTES)
    contents = {
        "api-keys.yaml": f"sk-{secrets.token_urlsafe(_BYTES)}: {{tenant: first}}\n",
        "mongodb-root-password": secrets.token_hex(_BYTES),
        "mongodb-history-password": history,
        "mongodb-url": f"mongodb://history:{history}@mongodb:27017/chatmesh",
        "grafana-password": secrets.token_hex(_BYTES),
    }
    made = []
    for name, content in contents.items():
        path = folder / name
        if not path.exists():
            path.write_text(content, encoding="utf-8")
            made.append(path)
        path.chmod(0o644)
    return made


def write_certificates(folder: Path) -> list[Path]:
    """An authority, the broker's certificate, and one per principal, all anew or, where one is there, none.

    The authority's key is kept nowhere, so nobody can vouch for another name later. Raises OSError, ImportError.
    """
    authority = folder / "kafka-ca.pem"
    if authority.exists():
        return []
    from deploy.brokers.secured import make_certificates

    with tempfile.TemporaryDirectory(dir=folder) as work:
        issued = make_certificates(Path(work))
        found = {name: issued.issue(name) for name in PRINCIPALS}
        found |= {"broker": issued.issue("broker", host=BROKER_HOST), "ca": issued.ca_file}
        made = [path.rename(folder / f"kafka-{name}.pem") for name, path in found.items()]
    for path in made:
        path.chmod(0o644)
    return made


def _kept(path: Path) -> str | None:
    return path.read_text(encoding="utf-8").strip() if path.exists() else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
