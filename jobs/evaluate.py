"""Measure models, and write a page to listen to.

mars submit evaluate s3://bucket/ar --data s3://bucket/pictures --report s3://bucket/report.html
"""

import sys

from mars_dist.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
