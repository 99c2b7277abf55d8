"""Train the classifier that measures generated notes.

mars submit train-classifier --data s3://bucket/pictures --out s3://bucket/classifier
"""

import sys

from mars_dist.cli import main

if __name__ == "__main__":
    main(["train-classifier", *sys.argv[1:]])
