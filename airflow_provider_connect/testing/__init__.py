"""The contract suite: what every connector must keep, importable by those who write one outside this package.

`source` and `sink` hold the contracts (pytest classes to subclass), `memory` and `sqlite` reference connectors with
faults on order, `crash` death at every line, `doubles` the broken connectors that the contracts must reject.
"""

import sys

if "pytest" in sys.modules:  # so that a failed check shows its values; the connectors here need no pytest
    import pytest

    pytest.register_assert_rewrite(*(f"{__name__}.{module}" for module in ("contract", "source", "sink")))
