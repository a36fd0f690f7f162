"""What somebody at a terminal sees: as much of a VT100 as pytest and the plugin use, with lines that scroll."""

import re

_PIECES = re.compile(r"\x1b\[([\d;]*)([A-Za-z])|\x1b([78D])|([\r\n])|([^\x1b\r\n]+)")


class Screenful:
    """A screen of so many rows, of which no line is as long as it is wide."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._lines = [""] * rows
        self._at = self._kept = (0, 0)
        self.above: list[str] = []
        """Lines that have left it."""

    @property
    def text(self) -> str:
        """All that was and is to be seen."""
        return "\n".join(line.rstrip() for line in (*self.above, *self._lines)).rstrip()

    def show(self, output: str) -> None:
        """Take what comes to the terminal, in pieces of which none ends in the midst of a sequence."""
        for count, command, escape, control, text in _PIECES.findall(output):
            row, column = self._at
            if text:
                line = self._lines[row].ljust(column)
                self._lines[row] = line[:column] + text + line[column + len(text) :]
                self._at = (row, column + len(text))
            elif control == "\r":
                self._at = (row, 0)
            elif control == "\n" or escape == "D":
                self._go_down()
            elif escape == "7":
                self._kept = self._at
            elif escape == "8":
                self._at = self._kept
            elif command == "A":
                self._at = (max(row - int(count or 1), 0), column)
            elif command == "K":
                self._lines[row] = self._lines[row][:column]
            else:
                assert command == "m", (count, command)

    def _go_down(self) -> None:
        row, column = self._at
        if row + 1 == self._rows:
            self.above.append(self._lines.pop(0))
            self._lines.append("")
        else:
            row += 1
        self._at = (row, column)
