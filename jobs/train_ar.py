"""Train an autoregressor on codes.

mars submit train-ar small --tokenizer s3://bucket/tokenizer --data s3://bucket/codes --out s3://bucket/ar --workers 8
"""

import sys

from mars_dist.cli import main

if __name__ == "__main__":
    main(["train-ar", *sys.argv[1:]])
