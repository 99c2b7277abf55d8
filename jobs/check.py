"""Whether a training will fit, how long it will take, what it will cost; with a look at each node.

mars submit check small --data s3://bucket/pictures --out s3://bucket/tokenizer --workers 8
"""

import sys

from mars_dist.cli import main

if __name__ == "__main__":
    main(["check", *sys.argv[1:]])
