"""A trained network for programs without this library: what an exported folder holds, written, read and compared."""
