"""dclocal: ask a Dense Connector model about pictures, on this machine, from the terminal.

This package is the runtime: it reads bundles and answers.  It needs neither torch nor transformers.
"""

__version__ = "0.1.0"
