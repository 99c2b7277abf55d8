"""Pictures to codes.

mars submit encode --tokenizer s3://bucket/tokenizer --data s3://bucket/pictures --out s3://bucket/codes
"""

import sys

from mars_dist.cli import main

if __name__ == "__main__":
    main(["encode", *sys.argv[1:]])
