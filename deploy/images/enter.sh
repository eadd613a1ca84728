#!/bin/sh
# Become a program inside the root of an image: `enter.sh ROOT USER FOLDER ro|rw MOUNT... -- PROGRAM...`.
#
# To be run as root in mount and process namespaces of its own (unshare --mount --pid --fork), so that nothing outside
# sees its mounts and the program is process 1, as in a container. A MOUNT is `ro:SOURCE:TARGET`, `rw:SOURCE:TARGET` or
# `tmpfs:TARGET`; its targets exist below ROOT. Any USER but 0 has no capabilities and can get none.
set -eu
root=$1 user=$2 folder=$3 mode=$4
shift 4

mount --bind "$root" "$root"
while [ "$1" != -- ]; do
    kind=${1%%:*} rest=${1#*:}
    case $kind in
    tmpfs) mount -t tmpfs -o mode=1777 tmpfs "$root$rest" ;;
    ro | rw)
        mount --bind "${rest%:*}" "$root${rest##*:}"
        [ "$kind" = rw ] || mount -o remount,bind,ro "$root${rest##*:}"
        ;;
    *)
        echo "enter.sh: what is '$1'?" >&2
        exit 2
        ;;
    esac
    shift
done
shift
mount -t proc proc "$root/proc"
[ "$mode" = rw ] || mount -o remount,bind,ro "$root"

if [ "$user" != 0 ]; then
    set -- setpriv --reuid "${user%:*}" --regid "${user#*:}" --clear-groups --no-new-privs \
        --inh-caps=-all --bounding-set=-all -- "$@"
fi
# shellcheck disable=SC2016  # the inner shell is to expand it
exec chroot "$root" sh -c 'cd "$1" && shift && exec "$@"' sh "$folder" "$@"
