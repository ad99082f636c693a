"""Reading machine code and PTX out of binaries: pure functions from bytes, and the walk over files."""
