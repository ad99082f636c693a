"""As torch's own; ``PRETENDED_HIP`` makes it a build for AMD's GPUs."""

import os

cuda = "13.0"
hip = os.environ.get("PRETENDED_HIP") or None
