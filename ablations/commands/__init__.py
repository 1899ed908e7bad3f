"""The commands of `vitab`, one module each, and what they print. `ablations.cli` assembles them.

Commands parse options and call the other rooms; they contain no logic of their own.
"""
