"""Owns the shell text by which a guest takes in a file or a folder, and packs a folder to be fetched. Pure."""

import shlex
from collections.abc import Iterator

from pytest_readonly_vm.channels.jobs import PLACES

# Prints where it has put the archive: in the first place that has room for it. -S, for files with holes, is GNU's.
_PACK = f"""\
umask 077
why='there is no place for an archive'
for d in {" ".join(PLACES)}; do
    f=$d/{{name}}
    {{{{ true >"$f"; }}}} 2>/dev/null || continue
    if tar -cSf "$f" -C {{folder}} . 2>/dev/null || why=$(tar -cf "$f" -C {{folder}} . 2>&1); then
        echo "$f" $(wc -c <"$f")
        exit
    fi
    had_room=
    {{{{ printf '%4096s' x >>"$f"; }}}} 2>/dev/null && had_room=1
    rm -f "$f"
    [ ! "$had_room" ] || break
done
echo "$why" >&2
exit 1"""

# $f is an unfinished file, $t what it is to become. Folders that are made are given to the owner as well; the file only
# when it is whole: in a sticky folder not even root writes to another's (fs.protected_regular).
_BEGIN = """\
f={partial} t={target} owner={owner} spec={spec}
fail() {{ echo "$*" >&2; exit 1; }}
give() {{
    [ "$owner" ] || return 0
    why=$(LC_ALL=C chown -- "$spec" "$1" 2>&1) && return
    case $why in
    *"invalid "* | *"unknown "*) fail "there is no such user or group in the guest: $owner" ;;
    *) fail "it cannot be given to $owner: ${{why#*: }}" ;;
    esac
}}
{find_group}
umask 022
for folder in {missing}; do
    [ -d "$folder" ] || {{ mkdir -- "$folder" && give "$folder"; }} || exit
done
{check}
[ -d {folder} ] || fail 'its folder is not there (parents=True makes it)'
umask 077
true >"$f" || exit
[ ! "$owner" ] || {{ give "$f" && stat -c '%u %g' -- "$f" && chown 0:0 -- "$f"; }}
"""
# To chown, a number alone says nothing of a group, and one with a colon is none. Not every guest has getent.
_FIND_GROUP = """\
group=$(
    {{ getent passwd {number} || cat /etc/passwd; }} 2>/dev/null |
        sed -n 's/^[^:]*:[^:]*:{number}:\\([0-9]*\\):.*/\\1/p'
)
spec=${{group:+{number}:${{group%%[!0-9]*}}}} spec=${{spec:-{number}}}"""
_NO_FOLDER = """[ ! -d "$t" ] || fail 'it is a folder'"""
_NO_FILE = """[ -d "$t" ] || [ ! -e "$t" ] || fail 'it is no folder'"""
_FINISH = """\
f={partial} t={target}
sum=$(sha256sum <"$f") && [ "${{sum%% *}}" = {digest} ] || {{
    echo 'it arrived damaged: its SHA-256 is another' >&2
    exit 1
}}
{then}
"""


def begin(partial: str, target: str, *, owner: str | None, parents: bool, is_folder: bool) -> str:
    """Text that makes an unfinished file of what is to be `target`, and prints the numbers of an owner that is given.

    :param owner: ``user``, with that user's own group, or ``user:group``; names or numbers.
    :param parents: whether to make the folders above that are not there.
    :param is_folder: whether it is the archive of a folder.
    """
    is_number = owner is not None and owner.isascii() and owner.isdecimal()
    spec = owner if owner is None or ":" in owner else f"{owner}:"
    return _BEGIN.format(
        partial=shlex.quote(partial),
        target=shlex.quote(target),
        owner=shlex.quote(owner or ""),
        spec=shlex.quote(spec or ""),
        find_group=_FIND_GROUP.format(number=owner) if is_number else "",
        missing=" ".join(shlex.quote(folder) for folder in _folders_above(target)) if parents else "",
        check=_NO_FILE if is_folder else _NO_FOLDER,
        folder=shlex.quote(f"{partial.rpartition('/')[0]}/"),
    )


def _folders_above(path: str) -> Iterator[str]:
    """The folders that a path leads through, the uppermost first."""
    folder = ""
    for part in path.strip("/").split("/")[:-1]:
        folder += f"/{part}"
        if part:
            yield folder


def take_file(partial: str, target: str, *, digest: str, ids: list[int], mode: int, modified: int | None = None) -> str:
    """Text that gives a file, if it is what was sent, its owner and group, mode, time, and name.

    :param ids: numbers of owner and group; empty for root's.
    """
    then = [f'chown {ids[0]}:{ids[1]} -- "$f"'] if ids else []
    then.append(f'chmod {mode:o} -- "$f"')
    if modified is not None:
        then.append(f'touch -d @{modified} -- "$f"')
    then.append('mv -f -- "$f" "$t"')
    return _finish(partial, target, digest, "; ".join(then))


def take_folder(partial: str, target: str, *, digest: str) -> str:
    """Text that unpacks an archive, if it is what was sent."""
    return _finish(partial, target, digest, 'mkdir -p -- "$t" && tar -xpf "$f" -C "$t" && rm -f -- "$f"')


def _finish(partial: str, target: str, digest: str, then: str) -> str:
    return _FINISH.format(partial=shlex.quote(partial), target=shlex.quote(target), digest=digest, then=then)


def pack_folder(folder: str, name: str) -> str:
    """Text that packs a folder into a file of that name, and prints where that is, and its size."""
    return _PACK.format(name=name, folder=shlex.quote(folder))
