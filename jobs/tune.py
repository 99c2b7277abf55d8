"""Many settings at equal cost, side by side.

mars submit tune tune/scale_schedules.py --data s3://bucket/pictures --out s3://bucket/schedules
"""

import sys

from mars_dist.cli import main

if __name__ == "__main__":
    main(["tune", *sys.argv[1:]])
