"""Options, each written once: a field of a frozen dataclass, with its type, default, range and help.

The command line, the signatures and docstrings of the public functions, and the checks of values all come from these
fields. One file holds one group of options; a public function's options combine groups. A dataclass takes the fields of
its bases from the last one to the first, so the bases stand in the reverse order of the parameters.
A default or help that differs for one function is redeclared in the class of that function.
"""
