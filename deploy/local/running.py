"""`python -m deploy.local.running COMMAND …`: run a command on the broker of the `make run` of this folder.

Without such a run, or where KAFKA_BOOTSTRAP_SERVERS is set, the command runs in the environment as it is.
"""

import os
import sys
from collections.abc import Mapping

from deploy.local.announced import running_environment
from deploy.local.settings import LocalSettings
from shared.errors import SettingsError
from shared.settings import load_settings


def command_environment(environment: Mapping[str, str], of_run: Mapping[str, str]) -> dict[str, str]:
    """What the command is to run in. A broker that the user names is not to be mixed with the run's namespace."""
    named = bool(environment.get("KAFKA_BOOTSTRAP_SERVERS"))
    return dict(environment) if named else {**environment, **of_run}


def main(command: list[str]) -> int:
    """Becomes the command. Exit status 2 without one, 127 if there is no such program."""
    if not command:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        of_run = running_environment(load_settings(LocalSettings).data_dir)
        os.execvpe(command[0], command, command_environment(os.environ, of_run))
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: cannot run {command[0]}: {error}", file=sys.stderr)
        return 127


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
