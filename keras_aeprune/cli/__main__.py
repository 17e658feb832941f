"""python -m keras_aeprune.cli is the command keras-aeprune."""

import sys

from keras_aeprune.cli import main

sys.exit(main())
