"""All stages in a row.

mars submit pipeline small --source s3://bucket/nsynth --out s3://bucket/small --workers 8
"""

import sys

from mars_dist.cli import main

if __name__ == "__main__":
    main(["pipeline", *sys.argv[1:]])
