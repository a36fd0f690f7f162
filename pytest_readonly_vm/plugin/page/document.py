"""Owns the page as text: the template, its styles and scripts, and the data put where no text in it can do harm."""

import base64
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

_HERE = Path(__file__).parent
_SCRIPTS = ("model.js", "overview.js", "timeline.js", "controls.js", "tables.js", "main.js")
_DANGEROUS = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})
"""What could end the element that holds the data; in JSON these are in strings only, which may spell them so."""


def document(data: Mapping[str, object]) -> str:
    """The whole page, for data as the scripts expect it. Nothing but its own style and script may be loaded or run."""
    import json

    style = (_HERE / "page.css").read_text("utf-8")
    script = '"use strict";\n' + "".join((_HERE / name).read_text("utf-8") for name in _SCRIPTS)
    policy = (
        f"default-src 'none'; script-src {_digest(script)}; style-src {_digest(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    # As ASCII: no separator that a script does not like, and no lone surrogate that a file cannot hold.
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":")).translate(_DANGEROUS)
    parts = {"policy": policy, "style": style, "script": script, "data": text}
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], (_HERE / "page.html").read_text("utf-8"))


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
