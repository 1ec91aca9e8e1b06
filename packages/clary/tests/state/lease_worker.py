"""One worker of several: claims jobs of the database at the URL, completes them, prints the keys of those it did."""

from __future__ import annotations

import sys

from clary.state.database import Database
from clary.state.leases import claim
from clary.state.training_jobs import TrainingJob


def main(url: str) -> None:
    database = Database(url)
    while leases := claim(database, TrainingJob, TrainingJob.status == "InProgress", limit=2):
        for lease in leases:
            with lease.apply(database) as session:
                session.get_one(TrainingJob, lease.key).status = "Completed"
            print(lease.key)
    database.close()


if __name__ == "__main__":
    main(sys.argv[1])
