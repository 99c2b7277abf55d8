"""New notes.

mars submit sample s3://bucket/ar --pitch 60 --family guitar --count 8 --out /shared/samples
"""

import sys

from mars_dist.cli import main

if __name__ == "__main__":
    main(["sample", *sys.argv[1:]])
