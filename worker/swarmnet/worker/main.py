"""Where the swarmnet-worker process begins: as one that overwrites what it frees, before all else."""

from __future__ import annotations

from swarmnet.worker.memory import wipe_what_is_freed


def main() -> None:
    wipe_what_is_freed()
    from swarmnet.worker.command import main as command

    command()


if __name__ == "__main__":
    main()
