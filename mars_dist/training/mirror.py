"""A run whose folder lies in S3: worked on in a scratch folder of the machine, from where what has changed is sent."""

from pathlib import Path
from threading import Lock

from mars_dist.storage import Folder


class Mirror:
    """Of one worker. Files whose names begin with a dot are half-written."""

    def __init__(self, home: Folder, needed: set[str], folder: Path) -> None:
        """In a new folder; begins with those of the needed files that home has already. Raises OSError."""
        self.home, self.folder = home, folder
        folder.mkdir()
        for name in sorted(home.list() & needed):
            home.fetch(name, self.folder / name)
        self.sent, self.sending = self.files(), Lock()

    def files(self) -> set[tuple[str, int, int]]:
        """The states of all files: what one is called, when it was written, and how long it is."""
        paths = [path for path in self.folder.rglob("[!.]*") if path.is_file()]
        found = [(path, path.stat()) for path in paths]
        return {(str(path.relative_to(self.folder)), stat.st_mtime_ns, stat.st_size) for path, stat in found}

    def send(self) -> None:
        """Send what has changed; a model's config.json after its weights. Raises OSError.

        One thread at a time: the loop, the uploads of its checkpoints and the watchdog may want it at once.
        """
        with self.sending:
            files = self.files()
            for name, *_ in sorted(files - self.sent, reverse=True):
                self.home.sub(str(Path(name).parent)).send(self.folder / name)
            self.sent = files
