"""As torch's own."""

cuda = "13.0"
hip = None
