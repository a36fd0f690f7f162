"""Owns the question to a guest whether its init has done what it does at boot: systemd, OpenRC, BusyBox, a script."""

from pytest_readonly_vm.channels.port import SHELL_PORT
from pytest_readonly_vm.qemu.provision import HANDED_OVER

AGAIN = 75
"""The exit status that means: not yet, ask again."""

# The shell that a direct boot is given is there before init. --wait returns when no job is left in systemd's queue.
#
# Another init has done its work when somebody stands at a terminal whom it has started itself: the shells and gettys of
# an inittab come after its boot scripts, which are known by their names; a script that is init starts them last.
# Without a terminal it has when nothing is started any more for a second. A boot script that stands still for long has
# become what the guest is there for. The shell that reads this starts one process a turn, the sleep.
HAS_BOOTED = rf"""
read -r name </proc/1/comm
case $(readlink /proc/1/exe) in
*/systemd)
    [ -d /run/systemd/system ] || exit {AGAIN}
    state=$(systemctl is-system-running --wait 2>/dev/null)
    case $state in running | degraded | maintenance) ;; *) exit {AGAIN} ;; esac
    echo "$state"
    cut -d ' ' -f 1 /proc/uptime
    systemctl show --property=UserspaceTimestampMonotonic,FinishTimestampMonotonic
    [ "$state" = running ] || systemctl list-units --failed --no-legend --plain
    exit
    ;;
esac
read -r line </proc/1/cmdline
case $line in *{SHELL_PORT}* | *{HANDED_OVER}*) sleep .1 || sleep 1; exit {AGAIN} ;; esac

look() {{
    works= stands=
    if [ -d /run/openrc ]; then
        level=
        read -r level </run/openrc/softlevel
        case $level in '' | sysinit | boot) works=1 ;; esac
        [ ! -e /run/openrc/rc.starting ] || works=1
    fi
    children=
    if [ -e /proc/1/task/1/children ]; then
        read -r children </proc/1/task/1/children
    else
        cd /proc && children=$(echo [1-9]*)
    fi
    for child in $children; do
        read -r line </proc/$child/stat || continue
        name=${{line#*(}}
        name=${{name%)*}}
        set -- ${{line##*) }}
        [ "$2" = 1 ] || continue
        case $name in
        rc | rc[A-Z0-9] | rc.* | openrc) works=1 ;;
        *) [ "$5" = 0 ] || stands=1 ;;
        esac
    done
}}
turns=0 quiet=0 last=0
while :; do
    look
    if [ -z "$works" ] && [ -n "$stands" ]; then break; fi
    before=$last
    read -r line </proc/loadavg
    set -- $line
    running=${{4%%/*}} last=$5
    if [ $((last - before)) -le 1 ] && [ "$running" -le 1 ]; then quiet=$((quiet + 1)); else quiet=0; fi
    [ $quiet -lt 150 ] && [ $turns -lt 300 ] || break
    [ -n "$works" ] || {{ [ $quiet -lt 10 ] && [ $turns -lt 100 ]; }} || break
    turns=$((turns + 1))
    sleep .1 || sleep 1
done 2>/dev/null
echo none
"""
