"""Where the files lie that travel with the code and are no Python: `conf/` and the schemas of `data/`."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
# In a clone they stand beside the package; a wheel carries them inside it.
SHIPPED = _PACKAGE if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent
"""The folder that holds `conf/` and `data/schemas/`."""
CONF = SHIPPED / "conf"
