"""The process of a trainer that is a function: it imports the function and calls it.

    python caller.py CODE MODULE:FUNCTION FOLDER WINDOWS

The function is called with the recipe's values by dotted keys, and the two folders.
"""

import importlib
import json
import sys
from pathlib import Path


def main() -> None:
    """Call the function that the command line names."""
    code, call, folder, windows = sys.argv[1:]
    sys.path[0] = code  # not the folder of this file
    module, _, name = call.partition(":")
    function = getattr(importlib.import_module(module), name)
    recipe = json.loads(Path(folder, "recipe.json").read_text())
    function(recipe, Path(folder), Path(windows))


if __name__ == "__main__":
    main()
