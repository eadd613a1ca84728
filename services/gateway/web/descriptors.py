"""Open files: every stream is a socket, and the usual soft limit of 1,024 is less than the streams we admit."""

from shared.errors import SettingsError

RESERVED = 256
"""For the broker's connections, the listening socket, logs, and connections that follow no response."""


def allow_streams(streams: int) -> None:
    """Raise this process's soft limit of open files to its hard limit.

    Raises SettingsError if that is too low for `streams` connections. Windows has no such limit.
    """
    try:
        import resource
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = streams + RESERVED
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise SettingsError(
            f"CHATMESH_MAX_IN_FLIGHT is {streams:,}, but this process may open {hard:,} files of {needed:,} needed: "
            "raise its hard limit (ulimit -Hn, LimitNOFILE) or follow fewer responses"
        )
