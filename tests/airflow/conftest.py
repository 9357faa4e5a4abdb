"""What of this folder takes minutes runs only where it is asked for."""

import os

collect_ignore = [] if os.environ.get("NIGHTSHIFT_LONG_TESTS") else ["test_swept_training.py"]
