"""One module per system; the module's name is the flow's `type:` (dashes become underscores).

A connector module defines `source` and/or `sink`, each a contract subclass. It is a file, or a package once it
outgrows one. Names that begin with an underscore are shared parts, not types.
"""
