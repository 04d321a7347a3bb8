"""Shows what stands under `Example:` in a docstring as code, as it does `Examples:`."""

import griffe


class Doctests(griffe.Extension):
    """Reads the one as the other before docstrings are parsed."""

    def on_instance(self, *, obj: griffe.Object, **_: object) -> None:
        if obj.docstring is not None:
            obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")
