"""Train a tokenizer on pictures.

mars submit train-tokenizer small --data s3://bucket/pictures --out s3://bucket/tokenizer --workers 8
"""

import sys

from mars_dist.cli import main

if __name__ == "__main__":
    main(["train-tokenizer", *sys.argv[1:]])
