"""Owns what is set of a network inside a guest, by root's hand: a card's addresses, and the names of others.

Nothing of the guest's own does it, so that any image will do; what manages networks there is told to keep its hands
off. POSIX shell, with iproute2, busybox or ifconfig.
"""

import shlex
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

from pytest_readonly_vm.errors import CommandFailed, CommandTimeout, NetworkError
from pytest_readonly_vm.guest.commands import Commands

BY_ITSELF = "where guests are to set up their cards by themselves: vm_private_network(…, dhcp=True) or configure=False"
"""What to do about guests in which nothing can be set up."""

_PATIENCE = 30.0
"""Seconds, on a computer that runs guests by itself, until a guest has found a card that was plugged in."""

# networkd and NetworkManager would take away an address that they have not set, or ask for one. networkd is not told
# that the card is unmanaged: where it is the only one, what waits for the network to be online would do so in vain.
_HANDS_OFF = """\
if [ -d /run/systemd/netif ]; then
    mkdir -p /run/systemd/network &&
    printf '%s\\n' '[Match]' MACAddress={mac} '[Link]' ActivationPolicy=manual RequiredForOnline=yes \\
        '[Network]' KeepConfiguration=yes DHCP=no IPv6AcceptRA=no >/run/systemd/network/00-private-{number}.network &&
    networkctl reload
fi >/dev/null 2>&1
if [ -d /run/NetworkManager ]; then
    mkdir -p /run/NetworkManager/conf.d &&
    printf '[device-private-{number}]\\nmatch-device=mac:{mac}\\nmanaged=0\\n' \\
        >/run/NetworkManager/conf.d/00-private-{number}.conf &&
    nmcli general reload conf
fi >/dev/null 2>&1
"""

# A name is udev's to give. It has when its entry for the card says since when the card is known: there is an entry
# before that, of a card that is being renamed. And the name that was read may have gone until the entry was.
# A kernel that hears of no card which is plugged in, as it was built without that, has to be told to look.
_FIND = """\
slots=$(ls /sys/bus/pci/slots 2>/dev/null)
while :; do
    for address in /sys/class/net/*/address; do
        read -r found <"$address" || continue
        card=${{address%/address}}
        [ "$found" = {mac} ] && [ -e "$card/device" ] || continue
        [ ! -e /run/udev/control ] && break 2
        read -r index <"$card/ifindex" && grep -q ^I: "/run/udev/data/n$index" && [ -e "$card/device" ] && break 2
    done 2>/dev/null
    [ -n "$slots" ] || {{ echo 1 >/sys/bus/pci/rescan; }} 2>/dev/null
    sleep 0.05 2>/dev/null || usleep 50000 2>/dev/null || sleep 1  # oftener, it would take the kernel's time for this
done
card=${{card##*/}}
"""

_SET = """\
for setting in accept_dad=0 dad_transmits=0 keep_addr_on_down=1; do
    echo ${{setting#*=}} >"/proc/sys/net/ipv6/conf/$card/${{setting%=*}}"
done 2>/dev/null
if command -v ip >/dev/null; then
    ip link set dev "$card" {mtu}up || exit
    # After a reboot it may have it already, from what the guest has kept.
    ip addr add {ipv4} dev "$card" || ip addr show dev "$card" | grep -qF ' {ipv4} ' || exit
    [ ! -e "/proc/sys/net/ipv6/conf/$card" ] || ip -6 addr add {ipv6} dev "$card" 2>/dev/null
{routes}else
    ifconfig "$card" {address} netmask {mask} {mtu}up || exit
    [ ! -e "/proc/sys/net/ipv6/conf/$card" ] || ifconfig "$card" add {ipv6} 2>/dev/null
{old_routes}fi
"""

_ROUTES = """\
    ip route replace default via {router} dev "$card" || exit
    [ ! -e "/proc/sys/net/ipv6/conf/$card" ] || ip -6 route replace default via {router6} dev "$card" 2>/dev/null
"""
_OLD_ROUTES = """\
    route add default gw {router} dev "$card" || exit
    [ ! -e "/proc/sys/net/ipv6/conf/$card" ] || route -A inet6 add default gw {router6} dev "$card" 2>/dev/null
"""

_UP = """\
if command -v ip >/dev/null; then ip link set dev "$card" {mtu}up; else ifconfig "$card" {mtu}up; fi
"""

# In place, as it may be a file that is mounted; where it cannot be written, over it.
_NAMES = """\
names=$(grep -v '# {mark}$' /etc/hosts 2>/dev/null; echo .)
names=${{names%.}}{names}
{{ printf %s "$names" >/etc/hosts; }} 2>/dev/null || {{
    printf %s "$names" >/run/private-hosts && mount --bind /run/private-hosts /etc/hosts
}} || {{ echo "/etc/hosts cannot be written" >&2; exit 1; }}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestCard:
    """A card as the guest is to have it."""

    number: int
    """Among those of its machine."""
    mac: str
    ipv4: IPv4Interface | None
    """None if the guest is to come by its addresses by itself."""
    ipv6: IPv6Interface | None
    router: IPv4Address | None
    """By which it reaches all that is on no network of its own."""
    router6: IPv6Address | None
    mtu: int | None


async def set_up_card(
    commands: Commands, card: GuestCard, *, of: str, names: str | None, mark: str, slowness: float
) -> str:
    """Wait for a card, give it its addresses, and others their names; what the guest calls it. On the loop.

    :param of: the machine's name, for messages.
    :param names: lines for /etc/hosts; None if it is not to be touched.
    :param mark: a comment at the end of each, by which they are found again.
    :raises NetworkError: the guest finds no such card, or cannot set its addresses.
    :raises GuestDied, ChannelError: as `Commands.run`.
    """
    mtu = f"mtu {card.mtu} " if card.mtu else ""
    script = _FIND.format(mac=card.mac)
    if card.ipv4 is None:
        script += _UP.format(mtu=mtu)
    else:
        script = _HANDS_OFF.format(mac=card.mac, number=card.number) + script
        routers = {"router": card.router, "router6": card.router6}
        script += _SET.format(
            mtu=mtu,
            ipv4=card.ipv4,
            ipv6=card.ipv6,
            address=card.ipv4.ip,
            mask=card.ipv4.network.netmask,
            routes=_ROUTES.format(**routers) if card.router else "",
            old_routes=_OLD_ROUTES.format(**routers) if card.router else "",
        )
    if names is not None:
        script += _NAMES.format(mark=mark, names=shlex.quote(names))
    script += 'echo "$card"\n'
    late_after = _PATIENCE * slowness
    try:
        done = await commands.run(script, timeout=late_after)
    except CommandFailed as failed:
        raise _refused(f"{of}: a card ({card.mac})", failed) from None
    except CommandTimeout:
        error = NetworkError(f"{of}: the guest finds no card ({card.mac}) within {late_after:g} s")
        error.add_note(f"it needs a driver for virtio-net, and a /sys; {BY_ITSELF}")
        raise error from None
    return done.stdout.strip()


async def set_names(commands: Commands, *, names: str, mark: str, timeout: float) -> None:
    """Have others known by their names; see `set_up_card`.

    :raises CommandTimeout: the guest has not done so within `timeout` seconds.
    """
    try:
        await commands.run(_NAMES.format(mark=mark, names=shlex.quote(names)), timeout=timeout)
    except CommandFailed as failed:
        raise _refused("names of others", failed) from None


def _refused(what: str, failed: CommandFailed) -> NetworkError:
    error = NetworkError(f"{what} cannot be set up in the guest: {failed.result.stderr.strip() or failed}")
    error.add_note(BY_ITSELF)
    return error
