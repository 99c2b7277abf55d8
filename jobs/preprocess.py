"""Notes to a data set of pictures.

mars submit preprocess small --source s3://bucket/nsynth --out s3://bucket/pictures
"""

import sys

from mars_dist.cli import main

if __name__ == "__main__":
    main(["preprocess", *sys.argv[1:]])
