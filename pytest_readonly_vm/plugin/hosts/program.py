"""Owns how a worker on another host begins: with the arguments as they were given, and then as any worker of xdist.

xdist itself passes on no argument that is a path on the controller, unless it has copied what is there. This is sent to
the host as text, and runs there before anything of pytest: it imports nothing.
"""

from typing import Any

if __name__ == "__channelexec__":

    class _Heard:
        """execnet's channel, from which something has been read that the program is to read once more."""

        def __init__(self, channel: Any, first: Any) -> None:
            self._channel = channel
            self._first = [first]

        def receive(self, *arguments: Any) -> Any:
            return self._first.pop() if self._first else self._channel.receive(*arguments)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._channel, name)

    _names = globals()
    _channel = _names["channel"]
    _given, _, _options, _path = _channel.receive()
    _arguments = _given.pop("readonly_vm_arguments")
    _program = _given.pop("readonly_vm_program")
    _names["channel"] = _Heard(_channel, (_given, _arguments, _options, _path))
    exec(compile(_program, "<xdist.remote>", "exec", dont_inherit=True), _names)
