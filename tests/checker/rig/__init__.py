"""The reliability rig: drives the release binary from outside and judges it with the checker beside this folder."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
